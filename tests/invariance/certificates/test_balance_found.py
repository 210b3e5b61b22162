"""Rebalancing by the laws that the finder reports, outputs compared."""

import pytest
import torch
from torch import nn

from spectrank.invariance.balance import balance_
from spectrank.invariance.find import find


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, x):
        h = self.stem(x)
        return self.head(h + self.second(torch.relu(self.first(h))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.block = nn.TransformerEncoderLayer(4, 2, 6, activation="gelu", **options)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.norm(self.block(self.embedding(x))))


def _convolutions():
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2)),
        *(nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
    )


NETS = {
    "linear": lambda: nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)),
    "convolutions": _convolutions,
    "residual": Residual,
    "transformer": Transformer,
}


@pytest.mark.parametrize("matrices", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_every_law_found_is_balanced_and_no_output_moves(name, matrices):
    generator = torch.Generator().manual_seed(11)
    net = NETS[name]().double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = {
        "convolutions": torch.randn(4, 2, 6, 6, generator=generator).double(),
        "transformer": torch.randint(5, (3, 4), generator=generator),
    }.get(name, torch.randn(5, 3, generator=generator).double())
    net.eval()
    with torch.no_grad():
        before = net(x)
    net.train()
    found = find(net, x)
    assert any(law.exact and law.form != "linear" for law in found)
    table = balance_(net, found, matrices=matrices, max_sweeps=1000, tolerance=1e-8)
    rows = table.where(metric="imbalance", variant="after", kind="measurement")
    assert rows.frame["value"].max() < 1e-8
    started = table.where(metric="imbalance", variant="before")
    assert started.frame["value"].max() > 0.1
    net.eval()
    with torch.no_grad():
        change = float((net(x) - before).abs().max() / before.abs().max())
    assert change < 1e-11
