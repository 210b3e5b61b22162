"""Regression collapse: shares by plain projections, NRC3 at minimisers."""

import numpy as np
import pytest
import torch
from tolerances import FLOAT64

from spectrank.collapse.features import (
    nrc,
    nrc1_of,
    nrc2_of,
    nrc3_of,
    target_rank,
)
from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.linalg.moments import ClassMoments


def gaussian(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def summary_of(x):
    moments = ClassMoments(1, x.shape[1], scatter="full")
    moments.update(x, torch.zeros(len(x), dtype=torch.int64))
    return moments.compute()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_are_those_of_projected_rows(seed):
    x = gaussian(seed, 40, 6) * torch.tensor([9.0, 4, 2, 1, 1, 0.5]) + 3.0
    targets = gaussian(seed + 10, 40, 2)
    w = gaussian(seed + 20, 2, 6)
    c = (x - x.mean(0)).numpy()
    _left, _s, rows = np.linalg.svd(c, full_matrices=False)
    principal = ((c - c @ rows[:2].T @ rows[:2]) ** 2).sum() / (c**2).sum()
    q = np.linalg.qr(w.numpy().T)[0]
    weight = ((c - c @ q @ q.T) ** 2).sum() / (c**2).sum()
    for value in (nrc(x, targets), nrc1_of(summary_of(x), 2)):
        assert value.value == pytest.approx(principal, rel=1e-11)
        assert value.lower <= principal <= value.upper
    for value in (nrc(x, targets, w, "nrc2"), nrc2_of(summary_of(x), w)):
        assert value.value == pytest.approx(weight, rel=1e-11)
        assert value.lower <= weight <= value.upper


def test_features_made_from_targets_have_collapsed():
    y = gaussian(0, 30, 3)
    w = gaussian(1, 3, 8)
    x = y @ w + 2.0
    assert nrc(x, y).value < 1e-28
    assert nrc(x, y, w, "nrc2").value < 1e-14
    # A weight that reads elsewhere sees nothing of them.
    basis = torch.linalg.qr(w.mT, mode="complete").Q.mT
    assert nrc(x, y, basis[3:6], "nrc2").value == pytest.approx(1.0, abs=FLOAT64)
    # A weight of rank one reads one direction; its zero rows span nothing.
    thin = torch.zeros(3, 8).double()
    thin[0] = basis[0]
    c = x - x.mean(0)
    share = 1.0 - float((c @ basis[0]).square().sum() / c.square().sum())
    assert nrc(x, y, thin, "nrc2").value == pytest.approx(share, rel=1e-11)


def test_the_rank_of_the_targets_counts_their_centred_directions():
    y = gaussian(3, 50, 2)
    assert target_rank(y) == 2
    assert target_rank(torch.cat([y, y.sum(1, keepdim=True)], dim=1)) == 2
    assert target_rank(torch.cat([y, torch.full((50, 1), 1e6)], dim=1)) == 2
    assert target_rank(torch.ones(5, 3)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_rank_of_targets_is_that_before_they_were_rounded(dtype):
    for seed in range(3):
        y = gaussian(seed, 64, 2) @ gaussian(seed + 10, 2, 5)
        assert target_rank(y) == 2
        assert target_rank(y.to(dtype)) == 2
        # An offset costs the digits that it takes.
        assert target_rank((y + 30.0).to(dtype)) == 2
        # Cast since, they look like five directions, as those of float64 would be.
        wide = y.to(dtype).double()
        assert (target_rank(wide), target_rank(wide, dtype=dtype)) == (5, 2)
    # numpy's own count, where the third direction is above what rounding makes.
    third = gaussian(3, 64, 3) * torch.tensor([1.0, 1.0, 0.3])
    cast = third.to(dtype)
    c = (cast - cast.mean(0)).float().numpy()
    eps = torch.finfo(dtype).eps
    s = np.linalg.svd(c, compute_uv=False)
    assert target_rank(cast) == (s > eps * 64 * s[0]).sum()
    assert target_rank((1e200 * third).double()) == 3
    # More rows are no more rounding: a faint direction of many stays one.
    many = gaussian(4, 20_000, 2) * torch.tensor([1.0, 400.0 * eps])
    assert target_rank(many.to(dtype)) == 2
    assert eps * 20_000 > 400.0 * eps
    assert target_rank(third.log()) == 0


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.4), (0.3, 0.3), (1.0, 0.81)])
def test_minimisers_with_free_features_satisfy_it(a, b):
    # (1/2N)|WH - Y|^2 + (a/2)|W|^2 + (b/2N)|H|^2 by L-BFGS from a random point.
    n, t, d = 12, 3, 4
    y = torch.diag(torch.tensor([2.0, 1.2, 0.6]).double()) @ gaussian(0, t, n)
    w = (0.3 * gaussian(1, t, d)).requires_grad_()
    h = (0.3 * gaussian(2, d, n)).requires_grad_()
    solver = torch.optim.LBFGS(
        [w, h],
        max_iter=3000,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
        history_size=30,
    )

    def closure():
        solver.zero_grad()
        fit = (w @ h - y).square().sum() / (2 * n)
        loss = fit + a / 2 * w.square().sum() + b / (2 * n) * h.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    assert max(float(w.grad.abs().max()), float(h.grad.abs().max())) < 1e-8
    value = nrc3_of(w.detach(), y @ y.mT / n)
    assert value.value < 1e-6
    # Without the threshold it would not be: c = sqrt(ab) is far from 0.
    root = torch.linalg.cholesky(y @ y.mT / n)
    mu, v = torch.linalg.eigh(root @ root.mT)
    plain = v @ torch.diag(mu.sqrt()) @ v.mT
    gram = (w @ w.mT).detach()
    assert float((gram / gram.norm() - plain / plain.norm()).norm()) > 0.02


def test_nrc3_is_the_least_distance_over_a_fine_grid():
    w, y = gaussian(5, 3, 6), gaussian(6, 40, 3) * torch.tensor([3.0, 1.0, 0.5])
    c = y - y.mean(0)
    mu, v = np.linalg.eigh((c.mT @ c / 40).numpy())
    gram = (w @ w.mT).numpy()
    gram = gram / np.linalg.norm(gram)
    distances = []
    for threshold in np.linspace(0, np.sqrt(mu[-1]), 20001)[:-1]:
        kept = v @ np.diag(np.maximum(np.sqrt(mu) - threshold, 0)) @ v.T
        distances.append(np.linalg.norm(gram - kept / np.linalg.norm(kept)))
    value = nrc(gaussian(0, 40, 6), y, w, "nrc3")
    assert value.value == pytest.approx(min(distances), abs=1e-7)
    assert value.value <= min(distances) + 1e-9
    for scale in (1e-150, 1e150):
        assert nrc3_of(w * scale, c.mT @ c / 40).value == pytest.approx(value.value)


def test_constant_features_or_targets_are_degenerate_and_misfits_refused():
    x, y, w = gaussian(0, 10, 4), gaussian(1, 10, 2), gaussian(2, 2, 4)
    still = torch.ones(10, 4).double()
    assert nrc(still, y).status == "degenerate"
    assert nrc(still, y, w, "nrc2").status == "degenerate"
    assert nrc1_of(summary_of(still), 2).status == "degenerate"
    assert nrc(x, torch.ones(10, 2), w, "nrc3").status == "degenerate"
    assert nrc(x, y, 0.0 * w, "nrc3").status == "degenerate"
    assert nrc(x, y, 0.0 * w, "nrc2").value == 1.0
    assert nrc(x, y, torch.nan * w, "nrc2").status == "nonfinite"
    assert nrc(x, y, torch.nan * w, "nrc3").status == "nonfinite"
    assert nrc(x * torch.nan, y).status == "nonfinite"
    with pytest.raises(UnknownNameError, match="nrc1, nrc2, nrc3"):
        nrc(x, y, w, "nrc4")
    with pytest.raises(ShapeError, match="10 rows as the features, got 9"):
        nrc(x, y[:9])
    with pytest.raises(DomainError, match="nrc2 needs the last weight"):
        nrc(x, y, variant="nrc2")
    with pytest.raises(ShapeError, match=r"shape \(2, 2\)"):
        nrc3_of(w, torch.eye(3))
