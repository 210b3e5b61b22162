"""Watched laws of centred parameters and of feature sums."""

import pytest
import torch
from torch import nn

from spectrank.invariance import Watch, find
from spectrank.invariance.laws import Laws, evaluate


def _stored() -> nn.Sequential:
    """A convolution with a bias before a normalisation with stored statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3)
    )
    model.append(nn.Flatten())
    model[1].running_mean.copy_(torch.tensor([0.7, -0.4, 0.0, 3.0]))
    model[1].running_var.copy_(torch.tensor([0.5, 2.0, 1.0, 0.1]))
    return model.eval()


class _Stream(nn.Module):
    """A residual branch through a LayerNorm, read without a final one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(2, 5), nn.LayerNorm(5)
        self.up, self.back = nn.Linear(5, 6), nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.back(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x)


def _made(kind):
    torch.manual_seed(0)
    if kind == "stored":
        return _stored().double(), torch.randn(6, 2, 4).double()
    return _Stream().double(), torch.randn(6, 2).double()


def _loss(model, x):
    return nn.functional.cross_entropy(model(x), torch.arange(6) % 3)


def _named(laws, kind):
    if kind == "stored":
        return next(law for law in laws if law.offsets)
    return next(law for law in laws if "of the mean" in law.name)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}]
)
@pytest.mark.parametrize("kind", ["stored", "stream"])
def test_they_are_explained_to_rounding(kind, options) -> None:
    model, x = _made(kind)
    laws = find(model, x)
    law = _named(laws, kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    start = evaluate(law, dict(model.named_parameters()))
    with Watch(model, laws, optimizer=optimizer, structure_every=1) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            _loss(model, x).backward()
            optimizer.step()
    rows = watch.table().where(step=6).frame.to_dicts()
    row = next(row for row in rows if row["subject"] == law.name)
    drift = evaluate(law, dict(model.named_parameters())) - start
    assert row["verdict"] == "explained"
    assert row["largest_drift"] == pytest.approx(float(drift.abs().max()), rel=1e-9)
    assert row["largest_drift"] > 1e-6
    assert abs(row["residual"]) <= 1e-13
    assert row["structure"] <= 1e-14


def test_one_plain_step_moves_them_by_the_law_of_the_gradient() -> None:
    model, x = _made("stored")
    law = _named(find(model, x), "stored")
    before = evaluate(law, dict(model.named_parameters()))
    _loss(model, x).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    squares = {
        name: (g.reshape(len(g), -1) ** 2).sum(1) for name, g in gradients.items()
    }
    by_hand = squares["0.weight"] + squares["0.bias"] - squares["1.weight"]
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    drift = evaluate(law, dict(model.named_parameters())) - before
    torch.testing.assert_close(drift, 0.01 * by_hand, rtol=0, atol=1e-14)


def test_a_mean_that_moves_breaks_its_law_and_decay_is_not_explained() -> None:
    model, x = _made("stored")
    laws = find(model, x)
    law = _named(laws, "stored")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Watch(model, laws, optimizer=optimizer) as watch:
        for step in range(4):
            if step == 2:
                model[1].running_mean += 1.0
            optimizer.zero_grad()
            _loss(model, x).backward()
            optimizer.step()
    rows = {r["subject"]: r for r in watch.table().where(step=4).frame.to_dicts()}
    assert rows[law.name]["verdict"] == "broken"
    others = {r["verdict"] for name, r in rows.items() if name != law.name}
    assert others <= {"explained", "conserved"}

    model, x = _made("stored")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    with Watch(model, find(model, x), optimizer=optimizer) as watch:
        optimizer.zero_grad()
        _loss(model, x).backward()
        optimizer.step()
    rows = {r["subject"]: r for r in watch.table().where(step=1).frame.to_dicts()}
    assert rows[law.name]["verdict"] == "not_applicable"
    assert "centred elsewhere" in rows[law.name]["reason"]


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}])
def test_decay_of_the_weights_alone_is_explained(options) -> None:
    model, x = _made("stored")
    law = _named(find(model, x), "stored")
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.5}, {"params": others}],
        lr=0.1,
        **options,
    )
    with Watch(model, Laws((law,)), optimizer=optimizer) as watch:
        for _ in range(4):
            optimizer.zero_grad()
            _loss(model, x).backward()
            optimizer.step()
    (row,) = watch.table().where(step=4).frame.to_dicts()
    assert row["verdict"] == "explained"
    # The centred bias is not decayed: what it adds is read off at every step.
    assert row["largest_drift"] > 1e-2
    assert abs(row["residual"]) <= 1e-13
