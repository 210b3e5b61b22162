"""Attention, transformers, recurrent nets and embeddings."""

import math

import torch
from torch import nn

from invariance_oracles.case import Case, features, tokens
from invariance_oracles.zoo_conv import EPS


class Attention(nn.Module):
    """One nn.MultiheadAttention, and a head of its own outputs."""

    def __init__(self, d=2, heads=1, bias=False):
        super().__init__()
        self.attn = nn.MultiheadAttention(d, heads, bias=bias, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0]


class GroupedAttention(nn.Module):
    """Two query heads of size d share one key and one value head."""

    def __init__(self, d=2):
        super().__init__()
        self.q = nn.Linear(d, 2 * d, bias=False)
        self.k = nn.Linear(d, d, bias=False)
        self.v = nn.Linear(d, d, bias=False)
        self.o = nn.Linear(2 * d, d, bias=False)
        self.d = d

    def forward(self, x):
        q = self.q(x).unflatten(-1, (2, self.d)).transpose(1, 2)
        k, v = self.k(x).unsqueeze(1), self.v(x).unsqueeze(1)
        k, v = (t.expand(-1, 2, -1, -1) for t in (k, v))
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(h.transpose(1, 2).flatten(2))


def rotate(x):
    """Rotary position embedding of the half-split layout, (..., T, d)."""
    half = x.shape[-1] // 2
    frequency = 1.0 / 3.0 ** torch.arange(half, dtype=x.dtype)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos + turned * sin


class RotaryAttention(nn.Module):
    """One rotary head of size two."""

    def __init__(self, d=3, size=2, bias=False):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d, size, bias=bias) for _ in range(3))
        self.o = nn.Linear(size, d, bias=bias)

    def forward(self, x):
        q, k, v = rotate(self.q(x)), rotate(self.k(x)), self.v(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return self.o(scores.softmax(-1) @ v)


class Block(nn.Module):
    """Transformer block of d = 3: one head of size 1, hidden 2; pre-LN or post-LN."""

    def __init__(self, d=3, post=False):
        super().__init__()
        self.ln1 = nn.LayerNorm(d, eps=EPS)
        self.ln2 = nn.LayerNorm(d, eps=EPS)
        self.q, self.k, self.v = (nn.Linear(d, 1) for _ in range(3))
        self.o = nn.Linear(1, d)
        self.fc1, self.fc2 = nn.Linear(d, 2), nn.Linear(2, d)
        self.post = post

    def attend(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.o((q @ k.transpose(-2, -1)).softmax(-1) @ v)

    def forward(self, x):
        mlp = lambda h: self.fc2(nn.functional.gelu(self.fc1(h)))  # noqa: E731
        if self.post:
            x = self.ln1(x + self.attend(x))
            return self.ln2(x + mlp(x))
        x = x + self.attend(self.ln1(x))
        return x + mlp(self.ln2(x))


class Transformer(nn.Module):
    """Token and position embedding, one block, final norm, head; V = T = d = 3."""

    def __init__(self, *, final=True, tied=False, classes=2):
        super().__init__()
        self.E, self.P = nn.Embedding(3, 3), nn.Embedding(3, 3)
        self.block = Block()
        self.ln = nn.LayerNorm(3, eps=EPS) if final else nn.Identity()
        self.head = nn.Linear(3, 3 if tied else classes, bias=not tied)
        if tied:
            self.head.weight = self.E.weight

    def forward(self, t):
        x = self.E(t) + self.P(torch.arange(t.shape[1]))
        return self.head(self.ln(self.block(x)))


class Recurrent(nn.Module):
    """A recurrent layer, its last state read by a head."""

    def __init__(self, layer, hidden):
        super().__init__()
        self.rnn, self.head = layer, nn.Linear(hidden, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Bigram(nn.Module):
    """Embedding and head, nothing or one square map between."""

    def __init__(self, tied, between=False, positions=False, d=2):
        super().__init__()
        self.E = nn.Embedding(3, d)
        self.A = nn.Linear(d, d, bias=False) if between else nn.Identity()
        self.P = nn.Embedding(3, d) if positions else None
        self.head = nn.Linear(d, 3, bias=False)
        if tied:
            self.head.weight = self.E.weight

    def forward(self, t):
        x = self.E(t)
        if self.P is not None:
            x = x + self.P(torch.arange(t.shape[1]))
        return self.head(self.A(x))


sequence = features(3, 2, batch=2)
SEQUENCE = [
    Case("attention", Attention, sequence, 6),
    Case("attention biases", lambda: Attention(bias=True), sequence, 8, linear=2),
    Case("attention two heads", lambda: Attention(2, 2), sequence, 4),
    Case(
        "attention two heads of two",
        lambda: Attention(4, 2),
        features(3, 4, batch=2),
        12,
        tags=frozenset({"slow"}),
    ),
    Case("attention grouped queries", GroupedAttention, features(3, 2, batch=2), 6),
    Case("attention rotary", RotaryAttention, features(3, 3, batch=2), 4),
    Case(
        "transformer pre-LN",
        Transformer,
        tokens(3, 3, batch=3),
        24,
        6,
        softmax=True,
        tags=frozenset({"slow"}),
    ),
    Case(
        "transformer no final norm",
        lambda: Transformer(final=False),
        tokens(3, 3, batch=3),
        20,
        softmax=True,
        tags=frozenset({"slow"}),
    ),
    Case(
        "transformer tied",
        lambda: Transformer(tied=True),
        tokens(3, 3, batch=3),
        21,
        softmax=True,
        tags=frozenset({"slow"}),
    ),
    Case(
        "post-LN block",
        lambda: Block(post=True),
        features(3, 3, batch=2),
        9,
        tags=frozenset({"slow"}),
    ),
    Case(
        "lstm",
        lambda: Recurrent(nn.LSTM(1, 2, batch_first=True), 2),
        features(3, 1),
        8,
        3,
        linear=8,
    ),
    Case(
        "gru",
        lambda: Recurrent(nn.GRU(1, 2, batch_first=True), 2),
        features(3, 1),
        4,
        3,
        linear=4,
    ),
    Case(
        "rnn tanh",
        lambda: Recurrent(nn.RNN(1, 2, batch_first=True), 2),
        features(3, 1),
        2,
        3,
        linear=2,
    ),
    Case(
        "rnn relu",
        lambda: Recurrent(nn.RNN(1, 3, nonlinearity="relu", batch_first=True), 3),
        features(3, 1),
        6,
        4,
        linear=3,
    ),
    Case(
        "rnn relu two layers",
        lambda: Recurrent(
            nn.RNN(1, 2, num_layers=2, nonlinearity="relu", batch_first=True), 2
        ),
        features(3, 1),
        8,
        3,
        linear=4,
    ),
    Case("embedding head", lambda: Bigram(False), tokens(3, 3), 3, 2),
    Case(
        "embedding head softmax",
        lambda: Bigram(False),
        tokens(3, 3),
        3,
        2,
        softmax=True,
    ),
    Case("embedding tied", lambda: Bigram(True), tokens(3, 3), 0, 0),
    Case(
        "embedding tied softmax", lambda: Bigram(True), tokens(3, 3), 0, 0, softmax=True
    ),
    Case("embedding tied square", lambda: Bigram(True, True), tokens(3, 3), 3, 0),
    Case(
        "embedding tied positions",
        lambda: Bigram(True, positions=True),
        tokens(3, 3),
        0,
        2,
        softmax=True,
    ),
]
