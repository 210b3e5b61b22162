"""Polar reset: characterised without an SVD, and its edges."""

import math

import pytest
import torch
from matrices import named_spectrum, with_spectrum
from tolerances import FLOAT64
from torch import nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.init.control import polar_reset_

FLOAT32 = 1e-6


def matrix(m, n, seed=0):
    return with_spectrum(named_spectrum("power", min(m, n)), m, n, seed=seed)


def cell(table, metric, variant, subject="tensor"):
    return table.where(
        subject=subject, metric=metric, variant=variant, kind="measurement"
    ).frame.row(0, named=True)


def value(table, metric, variant, subject="tensor"):
    return cell(table, metric, variant, subject)["value"]


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
@pytest.mark.parametrize("shape", [(7, 7), (9, 5), (5, 9), (1, 6)])
def test_reset_sets_the_stable_rank_and_keeps_the_norm(shape, scale, norm):
    before = matrix(*shape)
    W = before * scale
    table = polar_reset_(W, norm=norm)
    after = W / scale
    tall, was = (after, before) if shape[0] >= shape[1] else (after.T, before.T)
    p = min(shape)
    # All singular values equal: W^T W is a multiple of the identity.
    kept = before.norm() if norm == "frobenius" else torch.linalg.svdvals(before)[0]
    size = kept**2 / p if norm == "frobenius" else kept**2
    one = torch.eye(p, dtype=torch.float64)
    assert torch.allclose(tall.T @ tall, size * one, rtol=0.0, atol=FLOAT64 * 10)
    # The factor U V^T, and no other isometry, makes Q^T W symmetric and positive.
    product = tall.T @ was
    assert torch.allclose(product, product.T, rtol=0.0, atol=FLOAT64)
    assert float(torch.linalg.eigvalsh(product).min()) > 0
    metric = f"{norm}_norm"
    assert value(table, metric, "after") == pytest.approx(
        value(table, metric, "before"), rel=FLOAT64
    )
    assert value(table, "stable_rank", "after") == pytest.approx(p, rel=FLOAT64)
    assert cell(table, "stable_rank", "after")["status"] == "ok"


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_a_null_space_is_left_zero(norm):
    g = torch.Generator().manual_seed(0)
    left = torch.randn(8, 3, dtype=torch.float64, generator=g)
    right = torch.randn(6, 3, dtype=torch.float64, generator=g)
    W = left @ right.T
    before = W.clone()
    table = polar_reset_(W, norm=norm)
    row = cell(table, "stable_rank", "after")
    assert row["value"] == pytest.approx(3.0, rel=FLOAT64)
    assert row["status"] == "degenerate"
    assert "rank 3 of 6" in row["reason"]
    kept = cell(table, f"{norm}_norm", "after")
    assert kept["status"] == "ok"
    before_norm = value(table, f"{norm}_norm", "before")
    assert kept["value"] == pytest.approx(before_norm, rel=FLOAT64)
    # Null space and range are those of before.
    null = torch.linalg.qr(right, mode="complete")[0][:, 3:]
    assert float((W @ null).abs().max()) < FLOAT64 * 10
    product = W.T @ before
    assert torch.allclose(product, product.T, rtol=0.0, atol=FLOAT64 * 100)


def test_noise_of_storage_counts_as_null_space():
    # Rank two in float32: the other singular values are rounding, not signal.
    g = torch.Generator().manual_seed(1)
    W = torch.randn(40, 2, generator=g) @ torch.randn(2, 30, generator=g)
    assert float(torch.linalg.svdvals(W.double())[2]) > 0
    table = polar_reset_(W)
    assert value(table, "stable_rank", "after") == pytest.approx(2.0, rel=FLOAT32)


@pytest.mark.parametrize(
    ("entry", "status"), [(None, "degenerate"), (math.nan, "nonfinite")]
)
def test_zero_and_nonfinite_matrices_are_left(entry, status):
    W = torch.zeros(3, 4)
    if entry is not None:
        W[1, 2] = entry
    before = W.clone()
    table = polar_reset_(W)
    assert torch.equal(W.nan_to_num(5.0), before.nan_to_num(5.0))
    for variant in ("before", "after"):
        assert cell(table, "stable_rank", variant)["status"] == status


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        self.norm = nn.LayerNorm(6)
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.made = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))


def test_a_model_is_reset_where_it_has_matrices_and_says_where_not():
    model = Several()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    table = polar_reset_(model)
    for name, p in (("conv.weight", 6), ("first.weight", 6)):
        W = model.get_parameter(name).detach().flatten(1).double()
        assert torch.allclose(
            W @ W.T, torch.eye(p).double() * W.square().sum() / p, atol=FLOAT32
        )
        assert float(W.norm()) == pytest.approx(float(before[name].norm()), rel=FLOAT32)
        assert value(table, "stable_rank", "after", name) == pytest.approx(
            p, rel=FLOAT32
        )
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.second.weight is model.first.weight
    untouched = [n for n in before if n not in {"conv.weight", "first.weight"}]
    assert all(torch.equal(before[n], model.get_parameter(n)) for n in untouched)
    skips = {
        row["subject"]: row["reason"]
        for row in table.where(kind="skip").frame.to_dicts()
    }
    assert "tied" in skips["second.weight"]
    assert "computed from other parameters" in skips["made.weight"]
    assert set(table.where(kind="skip").frame["metric"]) == {"polar_reset"}


def test_select_leaves_the_rest():
    model = Several()
    kept = model.conv.weight.detach().clone()
    table = polar_reset_(model, select="first.*")
    assert torch.equal(model.conv.weight, kept)
    assert value(table, "stable_rank", "after", "first.weight") == pytest.approx(
        6.0, rel=FLOAT32
    )


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_each_group_of_a_convolution_is_reset_by_itself(norm):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, groups=2, dtype=torch.float64)
    conv = conv.to(memory_format=torch.channels_last)
    before = conv.weight.detach().clone()
    table = polar_reset_(conv, norm=norm)
    for k in range(2):
        was, now = (x[4 * k : 4 * k + 4].flatten(1) for x in (before, conv.weight))
        s = torch.linalg.svdvals(now.detach())
        kept = was.norm() / 2 if norm == "frobenius" else torch.linalg.svdvals(was)[0]
        assert torch.allclose(s, kept.expand(4), rtol=FLOAT64, atol=0.0)
        row = table.where(metric="stable_rank", variant="after", index=k).frame.row(
            0, named=True
        )
        assert (row["part"], row["m"], row["n"]) == (f"group.{k}", 4, 27)
        assert row["value"] == pytest.approx(4.0, rel=FLOAT64)


def test_an_embedding_is_reset_only_where_it_is_named():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    for select in (None, "*", ["*.weight"]):
        table = polar_reset_(model, select=select)
        (row,) = table.where(kind="skip", subject="0.weight").frame.to_dicts()
        assert "embedding" in row["reason"]
        assert "select='0.weight' resets it" in row["reason"]
        assert torch.equal(model[0].weight, before)
    table = polar_reset_(model, select=["0.weight"])
    assert value(table, "stable_rank", "after", "0.weight") == pytest.approx(
        4.0, rel=FLOAT32
    )


def test_training_goes_on_after_a_reset():
    layer = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(2, 5)).sum().backward()
    grad = layer.weight.grad.clone()
    polar_reset_(layer)
    assert torch.equal(layer.weight.grad, grad)
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None
    optimizer.step()


def test_a_reset_in_bfloat16_is_right_to_its_rounding():
    W = matrix(20, 12).to(torch.bfloat16)
    table = polar_reset_(W)
    # Each entry rounds to 2**-9: s_1 moves by about sqrt(20) 2**-9 relative to one.
    assert value(table, "stable_rank", "after") == pytest.approx(12.0, rel=0.03)


@pytest.mark.parametrize(
    ("dtype", "m", "n"), [(torch.bfloat16, 160, 160), (torch.float16, 24, 1100)]
)
def test_a_large_matrix_of_half_precision_is_reset(dtype, m, n):
    # max(m, n) eps is above 1 here: no measure of what is rounding.
    g = torch.Generator().manual_seed(0)
    W = torch.randn(m, n, generator=g).to(dtype)
    norm = float(W.double().norm())
    table = polar_reset_(W)
    assert float(W.double().norm()) == pytest.approx(norm, rel=0.01)
    s = torch.linalg.svdvals(W.double())
    assert float((s / s[0]).square().sum()) > 0.95 * m
    assert value(table, "stable_rank", "after") > 0.95 * m


def test_a_weight_that_cannot_be_written_is_left_and_no_half_is_reset():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    one = torch.arange(1.0, 5.0).reshape(1, 4)
    model[1].weight = nn.Parameter(one.expand(4, 4))
    rows = polar_reset_(model).where(kind="skip").frame.to_dicts()
    reasons = {row["subject"]: row["reason"] for row in rows}
    assert "share one memory cell" in reasons["1.weight"]
    assert torch.equal(model[1].weight.detach(), one.expand(4, 4))
    for k in (0, 2):
        s = torch.linalg.svdvals(model[k].weight.detach())
        assert torch.allclose(s, s[:1].expand(4), rtol=FLOAT32, atol=0.0)


def test_bad_requests_are_refused_before_anything_is_written():
    W = matrix(4, 3)
    before = W.clone()
    with pytest.raises(UnknownNameError, match="frobenius, spectral"):
        polar_reset_(W, norm="nuclear")
    with pytest.raises(DomainError, match="leave it out"):
        polar_reset_(W, select="*")
    with pytest.raises(DomainError, match="matches none"):
        polar_reset_(Several(), select="decoder.*")
    with pytest.raises(ArgumentTypeError, match="list"):
        polar_reset_([W])
    with pytest.raises(ShapeError, match=r"matrix or a kernel, got shape \(5,\)"):
        polar_reset_(torch.ones(5))
    with pytest.raises(DomainError, match="must have a weight to look at, ReLU has no"):
        polar_reset_(nn.ReLU())
    with pytest.raises(DomainError, match=r"at least one pattern, got \[\]"):
        polar_reset_(Several(), select=[])
    assert torch.equal(W, before)
