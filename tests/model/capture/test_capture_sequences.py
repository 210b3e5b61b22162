"""Attention and recurrence: layers whose module is not called, or holds time."""

import math

import pytest
import torch
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from spectrank.errors import (
    SpectrankWarning,
)
from spectrank.model.capture import capture

N, T, D, C = 4, 5, 8, 3


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def labels(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(C, (N,), generator=generator)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build().double().eval()


def close(a, b):
    return torch.allclose(a, b, rtol=0.0, atol=10 * FLOAT64)


def first_batch(model, batch, layers=None, **options):
    with capture(model, layers, **options) as taps:
        return next(taps.over([batch]))


class Pooled(nn.Module):
    """An attention over a sequence, mean over its positions, a head."""

    def __init__(self, *, batch_first, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2, batch_first=batch_first, **options)
        self.head = nn.Linear(D, C)
        self.time = 1 if batch_first else 0
        self.need_weights = True

    def forward(self, x):
        h, _ = self.attention(x, x, x, need_weights=self.need_weights)
        return self.head(h.mean(self.time))


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_output_projection_of_an_attention_is_captured(batch_first, need_weights):
    model = seeded(lambda: Pooled(batch_first=batch_first))
    model.need_weights = need_weights
    x = draw(N, T, D) if batch_first else draw(T, N, D)
    y = labels()
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    seen = batch["attention.out_proj"]
    loss = F.cross_entropy(model(x), y, reduction="sum")
    projection = model.attention.out_proj
    expected = torch.autograd.grad(loss, projection.weight)[0]
    assert close(seen.gradient_rows().T @ seen.input_rows(), expected)
    # It lies as the attention gives it, and is what the attention gives.
    assert close(seen.outputs, model.attention(x, x, x)[0].detach())
    assert close(projection(seen.inputs).detach(), seen.outputs)
    assert seen.row_samples().reshape(seen.outputs.shape[:2]).tolist() == (
        [[n] * T for n in range(N)] if batch_first else [list(range(N))] * T
    )
    assert seen.row_labels().tolist() == y[seen.row_samples()].tolist()


def test_an_attention_tells_the_order_of_its_projection_where_sizes_do_not():
    model = seeded(lambda: Pooled(batch_first=False))
    seen = first_batch(model, (draw(N, N, D), labels()))["attention.out_proj"]
    assert torch.equal(seen.row_samples(), torch.arange(N).repeat(N))


def test_the_inputs_of_the_output_projection_are_the_heads_by_hand():
    model = seeded(lambda: Pooled(batch_first=True, bias=False))
    x = draw(N, T, D)
    seen = first_batch(model, (x, labels()))["attention.out_proj"]
    q, k, v = (x @ w.T for w in model.attention.in_proj_weight.detach().chunk(3))
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        scores = q[..., h] @ k[..., h].mT / math.sqrt(4)
        heads.append(torch.softmax(scores, -1) @ v[..., h])
    assert close(seen.inputs, torch.cat(heads, -1))


def test_a_parametrised_output_projection_is_captured():
    model = seeded(lambda: Pooled(batch_first=True))
    nn.utils.parametrizations.weight_norm(model.attention.out_proj)
    x, y = draw(N, T, D), labels()
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    seen = batch["attention.out_proj"]
    assert close(model.attention.out_proj(seen.inputs).detach(), seen.outputs)


def test_a_subclass_that_calls_its_projection_is_recorded_once():
    class Own(nn.MultiheadAttention):
        def forward(self, q, k, v, **_):
            return self.out_proj(q + v), None

    model = seeded(lambda: Pooled(batch_first=True))
    model.attention = Own(D, 2, batch_first=True).double()
    x = draw(N, T, D)
    seen = first_batch(model, (x, labels()))["attention.out_proj"]
    assert torch.equal(seen.inputs, 2.0 * x)
    assert close(seen.outputs, model.attention.out_proj(2.0 * x).detach())


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("gradients", [None, "loss"])
def test_the_fused_path_of_an_encoder_is_taken_apart_for_the_pass(gradients):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(D, C)

        def forward(self, x, src_key_padding_mask=None):
            h = self.encoder(x, src_key_padding_mask=src_key_padding_mask)
            return self.head(h[:, 0])

    model, x, y = seeded(Encoder).requires_grad_(False), draw(N, T, D), labels()
    with torch.no_grad():
        # The fused path is open here: hooks would not fire.
        assert torch.backends.mha.get_fastpath_enabled()
        expected = model(x)
    batch = {"x": x, "labels": y}
    padding = torch.zeros(N, T, dtype=torch.bool)
    padding[:, -2:] = True
    for extra in ({}, {"src_key_padding_mask": padding}):
        seen = first_batch(
            model, batch | extra, gradients=gradients, loss="cross_entropy"
        )
        assert len(seen.layers) == 7
        rows = seen["encoder.layers.1.linear1"].output_rows()
        assert len(rows) == N * (T - 2 if extra else T)
        if not extra:
            assert close(seen.outputs, expected)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_gives_its_sequence(kind, batch_first):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(D, 6, batch_first=batch_first, bidirectional=True)
            self.head = nn.Linear(12, C)

        def forward(self, x):
            h, _ = self.rnn(x)
            return self.head(h.mean(1 if batch_first else 0))

    model, y = seeded(Net), labels()
    x = draw(N, T, D) if batch_first else draw(T, N, D)
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    seen = batch["rnn"]
    h = model.rnn(x)[0]
    expected = torch.autograd.grad(
        F.cross_entropy(
            model.head(h.mean(1 if batch_first else 0)), y, reduction="sum"
        ),
        h,
    )[0]
    assert close(seen.outputs, h.detach())
    assert close(seen.output_gradients, expected)
    assert seen.output_rows().shape == (N * T, 12)
    samples = torch.arange(N).expand(T, N)
    samples = samples.T if batch_first else samples
    assert torch.equal(seen.row_samples(), samples.flatten())


@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_a_packed_sequence_has_no_padding_and_knows_its_samples(enforce_sorted):
    lengths = torch.tensor([5, 4, 2, 1] if enforce_sorted else [2, 5, 1, 4])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(D, 6, batch_first=True)
            self.head = nn.Linear(6, C)

        def forward(self, x):
            packed = pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=enforce_sorted
            )
            h, _ = self.rnn(packed)
            padded, _ = pad_packed_sequence(h, batch_first=True)
            return self.head(padded.sum(1))

    model, x, y = seeded(Net), draw(N, T, D), labels()
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    seen = batch["rnn"]
    assert len(seen.output_rows()) == int(lengths.sum())
    assert torch.bincount(seen.row_samples()).tolist() == lengths.tolist()
    assert torch.equal(seen.row_labels(), y[seen.row_samples()])
    # Rows of a sample, in time, are those of the sample run alone.
    for n in range(N):
        mine = seen.row_samples() == n
        alone, _ = model.rnn(x[n : n + 1, : lengths[n]])
        assert close(seen.output_rows()[mine], alone[0].detach())
        assert close(seen.input_rows()[mine], x[n, : lengths[n]])
    logits = seen.output_rows().new_zeros(N, 6).index_add(
        0, seen.row_samples(), seen.output_rows()
    )  # fmt: skip
    z = model.head(logits.requires_grad_())
    delta = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), logits)[0]
    assert close(seen.gradient_rows(), delta[seen.row_samples()])


def test_a_packed_batch_and_a_mask_tell_the_number_of_samples():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(D, 2), nn.Linear(D, C)

        def forward(self, x, key_padding_mask):
            return self.head(self.attention(x, x, x, key_padding_mask)[0])

    padding = torch.tensor([[False] * k + [True] * (T - k) for k in (5, 2, 1, 4)])
    batch = {"x": draw(T, N, D), "key_padding_mask": padding}
    seen = first_batch(seeded(Masked), batch)["head"]
    real = [(t, n) for t in range(T) for n in range(N) if not padding[n, t]]
    assert seen.row_samples().tolist() == [n for _, n in real]
    rows = torch.stack([seen.outputs[t, n] for t, n in real])
    assert torch.equal(seen.output_rows(), rows)
    packed = pack_padded_sequence(
        draw(N, T, D), torch.tensor([5, 4, 2, 1]), batch_first=True
    )
    seen = first_batch(seeded(lambda: nn.LSTM(D, 6)), packed, "")[""]
    assert seen.num_samples == N
    assert torch.bincount(seen.row_samples()).tolist() == [5, 4, 2, 1]


def test_the_last_state_of_a_recurrence_is_not_followed_and_that_is_said():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(D, 6, batch_first=True), nn.Linear(6, C)

        def forward(self, x):
            return self.head(self.rnn(x)[1][0])

    model = seeded(Net)
    with pytest.warns(SpectrankWarning, match=r"of: rnn; .* not the last state"):
        first_batch(
            model, (draw(N, T, D), labels()), gradients="loss", loss="cross_entropy"
        )
