"""Laws as `find` reports them, watched on networks of several kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spectrank.invariance import find
from spectrank.invariance.measure import measure
from spectrank.invariance.watching import Watch


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 8)
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.block = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 7)

    def forward(self, x):
        return self.head(self.norm(self.block(self.tokens(x) + self.positions)))


def _convolutions() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(24, 5), nn.Dropout(0.2), nn.Linear(5, 3)),
    )


def _batches(make, steps: int, classes: int):
    torch.manual_seed(1)
    for _ in range(steps):
        x = make()
        yield x, torch.randint(classes, (len(x) if x.ndim == 4 else x.numel(),))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", ["convolutions", "transformer"])
def test_all_that_is_found_is_explained(kind, nesterov, dtype) -> None:
    torch.manual_seed(0)
    if kind == "convolutions":
        model, classes = _convolutions().to(dtype), 3
        batches = _batches(lambda: torch.randn(8, 1, 10, 10, dtype=dtype), 8, classes)
    else:
        model, classes = _Transformer().to(dtype), 7
        batches = _batches(lambda: torch.randint(7, (4, 5)), 8, classes)
    batches = list(batches)
    laws = find(model, batches[0][0])
    biases = [p for p in model.parameters() if p.ndim == 1]
    others = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.SGD(
        [{"params": others, "weight_decay": 0.05}, {"params": biases}],
        lr=0.05,
        momentum=0.9,
        nesterov=nesterov,
    )
    options = {"optimizer": optimizer, "structure_every": 1, "every": 4}
    with Watch(model, laws, **options) as watch:
        for x, y in batches:
            optimizer.zero_grad()
            out = model(x)
            nn.functional.cross_entropy(out.reshape(-1, classes), y).backward()
            optimizer.step()
    rows = list(watch.table().where(step=8).frame.iter_rows(named=True))
    assert len(rows) == len(laws)
    for row in rows:
        assert row["verdict"] in {"conserved", "explained"}, row
        exact = laws[row["subject"]].exact
        unit = torch.finfo(dtype).eps
        assert row["structure"] <= (30 * unit if exact else 1e-4), row
        if dtype == torch.float64 and exact:
            assert abs(row["residual"]) <= 1e-13
    kinds = {row["metric"] for row in rows}
    assert kinds >= {"vertex", "softmax"}
    table = measure(model, laws)
    assert set(table.frame["status"]) == {"ok"}


def test_two_biases_of_a_recurrent_layer_stay_apart_by_the_same_under_adam() -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3, batch_first=True)
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model = Recurrent().double()
    laws = find(model, torch.randn(2, 5, 4).double())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    start = (model.lstm.bias_ih_l0 - model.lstm.bias_hh_l0).detach().clone()
    with Watch(model, laws, optimizer=optimizer) as watch:
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(2, 5, 4).double()).square().mean().backward()
            optimizer.step()
    rows = {r["metric"]: r for r in watch.table().where(step=10).frame.to_dicts()}
    assert rows["equal-gradient"]["verdict"] == "conserved"
    now = (model.lstm.bias_ih_l0 - model.lstm.bias_hh_l0).detach()
    assert torch.allclose(now, start, rtol=0, atol=1e-14)
    # The squared error does not conserve sums over logits: found for another loss.
    assert rows["softmax"]["verdict"] == "broken"
