"""Capacity against norms by dense SVD and sums written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.propagation import capacity
from spectrank.random_nets import RandomMLP
from spectrank.table import Table


def row(table: Table, metric: str, variant: str | None = None) -> dict[str, Any]:
    rows = list(table.where(kind="measurement", metric=metric, variant=variant))
    assert len(rows) == 1
    return rows[0]


def model() -> torch.nn.Sequential:
    torch_model = torch.nn.Sequential(
        torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in torch_model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return torch_model


def truths(matrices: list[np.ndarray], margin: float) -> dict[str, float]:
    """The formulas as printed, in NumPy."""
    s = [np.linalg.svd(W, compute_uv=False) for W in matrices]
    top = np.array([x[0] for x in s])
    ranks = sum((x**2).sum() / x[0] ** 2 for x in s)
    # ||A^T||_{2,1}: 2-norms of the columns of A^T, summed.
    norms = np.array([np.linalg.norm(W.T, axis=0).sum() for W in matrices])
    return {
        "product": float(np.log(top**2).sum()),
        "ranks": float(ranks),
        "bartlett2017": float(
            top.prod() * ((norms / top) ** (2 / 3)).sum() ** 1.5 / margin
        ),
        "neyshabur2018": float((top**2).prod() * ranks / margin**2),
    }


def check(table: Table, truth: dict[str, float]) -> None:
    for found, value in (
        (row(table, "log_spectral_norm_product"), truth["product"]),
        (row(table, "stable_rank_sum"), truth["ranks"]),
        (row(table, "spectral_complexity", "bartlett2017"), truth["bartlett2017"]),
        (row(table, "spectral_complexity", "neyshabur2018"), truth["neyshabur2018"]),
    ):
        assert found["value"] == pytest.approx(value, rel=1e-11)
        assert found["lower"] <= value * (1.0 + 1e-12 * np.sign(value))
        assert found["lower"] <= found["value"] <= found["upper"]
        assert value * (1.0 - 1e-12 * np.sign(value)) <= found["upper"]
        assert found["upper"] - found["lower"] <= 1e-9 * abs(value)
        assert found["status"] == "ok"
        assert found["subject"] == "network"


def test_a_module_agrees_with_dense_singular_values() -> None:
    net = model()
    before = [p.clone() for p in net.parameters()]
    table = capacity(net, margins=0.3)
    matrices = [net[0].weight.detach().numpy(), net[2].weight.detach().numpy()]
    check(table, truths(matrices, 0.3))
    assert row(table, "spectral_complexity", "bartlett2017")["margin"] == 0.3
    skipped = set(table.where(kind="skip").frame["subject"])
    assert skipped == {"0.bias", "2.bias"}
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_state_dict_file_and_module_agree(tmp_path: Path) -> None:
    net = model()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    tables = [capacity(net), capacity(net.state_dict()), capacity(path)]
    for metric, variant in (
        ("log_spectral_norm_product", None),
        ("spectral_complexity", "bartlett2017"),
    ):
        values = {row(table, metric, variant)["value"] for table in tables}
        assert len(values) == 1


def test_select_leaves_the_rest_out() -> None:
    net = model()
    table = capacity(net, select="2.*")
    check(table, truths([net[2].weight.detach().numpy()], 1.0))


def test_margins_enter_by_their_power_and_a_low_quantile() -> None:
    source = {"w": torch.eye(3)}
    one = capacity(source)
    many = capacity(source, margins=torch.tensor([4.0, 2.0, 8.0]), margin_quantile=0.0)
    median = capacity(source, margins=[4.0, 2.0, 8.0], margin_quantile=0.5)
    for variant, power in (("bartlett2017", 1), ("neyshabur2018", 2)):
        base = row(one, "spectral_complexity", variant)["value"]
        for table, margin in ((many, 2.0), (median, 4.0)):
            found = row(table, "spectral_complexity", variant)["value"]
            assert found == pytest.approx(base / margin**power, rel=1e-12)
    # Identity: one layer, s = 1, row norms 1 each, stable rank 3.
    assert row(one, "spectral_complexity", "bartlett2017")["value"] == pytest.approx(3)
    assert row(one, "spectral_complexity", "neyshabur2018")["value"] == pytest.approx(3)


def test_a_margin_that_is_not_positive_has_no_bound() -> None:
    table = capacity({"w": torch.eye(3)}, margins=-0.5)
    found = row(table, "spectral_complexity", "bartlett2017")
    assert found["status"] == "degenerate"
    assert math.isnan(found["value"])
    assert row(table, "stable_rank_sum")["status"] == "ok"


def test_a_zero_matrix_is_named() -> None:
    table = capacity({"a.weight": torch.eye(3), "b.weight": torch.zeros(3, 3)})
    for found in table:
        assert found["status"] == "degenerate"
        assert "b.weight" in found["reason"]


def test_products_of_many_layers_keep_their_logarithm() -> None:
    source = {f"{i}.weight": 1e6 * torch.eye(2) for i in range(60)}
    table = capacity(source)
    found = row(table, "spectral_complexity", "neyshabur2018")
    truth = 120 * math.log(1e6) + math.log(120)
    assert found["log_value"] == pytest.approx(truth, rel=1e-12)
    assert found["status"] == "nonfinite"
    assert found["value"] == math.inf
    product = row(table, "log_spectral_norm_product")
    assert product["value"] == pytest.approx(120 * math.log(1e6), rel=1e-12)


def test_layers_of_1e_200_and_1e200_are_their_product() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    table = capacity({"a": 1e-200 * eye, "b": 1e200 * eye})
    # Norms multiply to one; three unit rows each: (2 * 3^(2/3))^(3/2).
    found = table.value("network", "spectral_complexity", variant="bartlett2017")
    assert found == pytest.approx(3.0 * 2.0**1.5, rel=1e-12)
    assert set(table.frame["status"]) == {"ok"}


def test_scaling_one_layer_up_and_another_down_changes_nothing() -> None:
    a, b = (
        torch.randn(4, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1)
    )
    first = capacity({"a.weight": a, "b.weight": b})
    second = capacity({"a.weight": 8.0 * a, "b.weight": b / 8.0})
    for variant in ("bartlett2017", "neyshabur2018"):
        x, y = (
            row(t, "spectral_complexity", variant)["value"] for t in (first, second)
        )
        assert x == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize("spectrum", ["flat", "gaussian"])
def test_a_law_is_near_its_samples(spectrum: str) -> None:
    r = 20 if spectrum == "flat" else None
    net = RandomMLP([60, 80, 60], stable_rank=r, spectrum=spectrum)
    law = capacity(net, margins=2.0)
    draw = capacity(net.sample(torch.Generator().manual_seed(1)), margins=2.0)
    for metric, variant in (
        ("log_spectral_norm_product", None),
        ("stable_rank_sum", None),
        ("spectral_complexity", "bartlett2017"),
        ("spectral_complexity", "neyshabur2018"),
    ):
        found, truth = row(law, metric, variant), row(draw, metric, variant)["value"]
        exact = spectrum == "flat" and variant != "bartlett2017"
        assert found["route"] == ("exact" if exact else "leading-order")
        rel = 1e-9 if exact else 0.02 if spectrum == "flat" else 0.2
        assert found["value"] == pytest.approx(truth, rel=rel)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(DomainError, match="at least one weight matrix"):
        capacity({"b": torch.ones(3)})
    with pytest.raises(DomainError, match="finite numbers"):
        capacity({"w": torch.eye(2)}, margins=[])
    with pytest.raises(DomainError, match="finite numbers"):
        capacity({"w": torch.eye(2)}, margins=math.nan)
    with pytest.raises(DomainError, match="fraction"):
        capacity({"w": torch.eye(2)}, margin_quantile=10)


def test_what_is_no_number_is_refused() -> None:
    weights = {"w": torch.eye(2)}
    with pytest.raises(ArgumentTypeError, match="margins are numbers, got str"):
        capacity(weights, margins="a")
    with pytest.raises(ArgumentTypeError, match="margin_quantile is a number"):
        capacity(weights, margin_quantile="a")
