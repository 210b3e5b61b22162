"""Models that initialisers fill, and how their weights and rows are read."""

import itertools

import polars as pl
import torch
from torch import nn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stable_rank(W):
    s = torch.linalg.svdvals(W.detach().double().flatten(1))
    return float((s / s[0]).square().sum())


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    return {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}


def mlp(dtype=torch.float64, widths=(20, 32, 16, 1)):
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def rows(table, metric, subject=None):
    frame = table.frame.filter(pl.col("metric") == metric)
    if subject is not None:
        frame = frame.filter(pl.col("subject") == subject)
    return frame.to_dicts()


class Net(nn.Module):
    """A small CNN: a grouped, a depthwise and a transposed convolution, a residual."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.stem(x), 0.2)
        x = x + self.depthwise(nn.functional.gelu(self.norm(self.grouped(x))))
        return self.head(self.up(x).mean((2, 3)))
