"""Matrix laws of many features: a change of any of them is seen, and its share told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.invariance import find
from spectrank.invariance.laws import GramTerm, Law, Laws, evaluate
from spectrank.invariance.watching import Watch
from spectrank.invariance.watching.narrowing import narrowed


def _net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 5)).to(dtype)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=dtype) * 0.3
    return net


def _train(net, watch_options, edit, steps: int = 6) -> list[dict]:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    dtype = net[0].weight.dtype
    laws = find(net, torch.zeros(2, 6, dtype=dtype)).select("matrix")
    with Watch(net, laws, optimizer=optimizer, every=1, **watch_options) as watch:
        for k in range(1, steps + 1):
            optimizer.zero_grad()
            x = torch.randn(8, 6, generator=generator, dtype=dtype)
            y = torch.randint(5, (8,), generator=generator)
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            if k == 3:
                with torch.no_grad():
                    edit(net)
    return watch.table().frame.to_dicts()


def _outside() -> int:
    """A feature whose entries are not followed."""
    return next(iter(set(range(40)) - {*np.linspace(0, 39, 8).round().astype(int)}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("what", "seen_by"), [("scaled", "(norms)"), ("turned", "(signed sum)")]
)
def test_a_feature_whose_entries_are_not_followed_breaks_its_law(
    what, seen_by, dtype
) -> None:
    u = _outside()

    def edit(net: nn.Sequential) -> None:
        # Of a changed sign no norm tells.
        net[0].weight[u] *= 5.0 if what == "scaled" else -1.0

    rows = _train(_net(dtype), {"features": 8}, edit)
    assert len(rows) == 7  # One for each evaluation, whatever it is followed in.
    assert {row["verdict"] for row in rows[:4]} <= {"conserved", "explained"}
    assert all("entries of 8 of 40 features" in row["reason"] for row in rows)
    assert [row["verdict"] for row in rows[4:]] == ["broken"] * 3
    assert rows[-1]["broken_step"] == 4
    assert seen_by in rows[-1]["reason"]
    assert "0.weight" in rows[-1]["suspects"]
    assert rows[-1]["subject"] == rows[0]["subject"]
    if what == "scaled":
        assert rows[-1]["index"] == u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nothing_breaks_where_nothing_is_edited(dtype) -> None:
    rows = _train(_net(dtype), {"features": 8}, lambda net: None, steps=30)
    assert {row["verdict"] for row in rows} <= {"conserved", "explained"}
    structures = [row["structure"] for row in rows if row["structure"] is not None]
    assert max(structures) < 30 * torch.finfo(dtype).eps


def test_norms_and_signed_sum_are_those_of_the_dense_matrix() -> None:
    """Of a part of the columns and of some rows, in an order of their own."""
    generator = torch.Generator().manual_seed(2)
    rows = np.array([4, 0, 3, 5, 1])
    columns = np.array([1, 4, 5])
    a = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    b = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    terms = (
        GramTerm("a", (2, 6, 3), (1,), rows, 1.5, columns),
        GramTerm("b", (5, 4), (0,), None, -0.5),
    )
    law = Law("m", "matrix", "gram", terms, (5, 5), 1, "", "derived")
    flat = a.permute(1, 0, 2).reshape(6, 6)[rows][:, columns]
    dense = 1.5 * flat @ flat.T - 0.5 * b @ b.T
    found = narrowed(Laws((law,)), 2)
    tensors = {"a": a, "b": b}
    block, norms, signed = (evaluate(one, tensors) for one in found.laws)
    assert torch.allclose(block, dense[[0, 4]][:, [0, 4]], atol=1e-13)
    assert torch.allclose(norms, dense.diagonal(), atol=1e-13)
    plus, minus = (found.laws[2].terms[k].rows.tolist() for k in (3, 4))
    signs = torch.zeros(5, dtype=torch.float64)
    signs[plus], signs[minus] = 1.0, -1.0
    assert bool((signs != 0.0).all())
    assert 0 < len(plus) < 5
    assert float(signed) == pytest.approx(float(signs @ dense @ signs), rel=1e-13)
    # The same signs in every run.
    again = narrowed(Laws((law,)), 2)
    assert again.laws[2].terms[3].rows.tolist() == plus
    assert narrowed(Laws((law,)), 5).partly == (None,)
