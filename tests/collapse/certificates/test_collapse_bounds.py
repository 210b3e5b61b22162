"""Theorem A against autograd, dense sums and numpy's SVD, over random small nets."""

import numpy as np
import pytest
import torch
from certificate_nets import (
    NUMPY_ORDER,
    cross_of,
    dense_distance,
    dense_scatter,
    dense_within,
    draw,
)
from tolerances import FLOAT64

from spectrank.collapse.certificates import (
    NORMS,
    rank_bounds,
    sufficient_weight_decay,
)
from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.linalg.moments import CrossSummary
from spectrank.model import describe_loss

NUCLEAR = 1e-7


def measured(net, **options):
    cross = cross_of(net.delta, net.z, net.labels, net.num_classes, **options)
    divisor = describe_loss(net.loss).mean_factor(net.outputs, net.targets)
    return cross, divisor


@pytest.mark.parametrize("block", range(4))
def test_theorem_a_holds_over_a_thousand_random_nets_with_autograds_gradient(block):
    for seed in range(250 * block, 250 * (block + 1)):
        net = draw(seed)
        cross, divisor = measured(net)
        bounds = rank_bounds(
            net.weight, cross, divisor=divisor, weight_decay=net.decay, ranks=()
        )
        K = len(net.labels.unique())
        assert bounds.num_cells == K
        R = dense_within(net.delta, net.z, net.labels) / divisor
        # Dense sums of terms as large as the gradient's.
        scale = float(net.delta.norm() * net.z.norm()) / divisor
        scale += net.decay * float(net.weight.norm())
        for norm in NORMS:
            order = NUMPY_ORDER[norm]
            within, e = np.linalg.norm(R, order), np.linalg.norm(net.slope, order)
            # Small values of a Gram matrix make up the nuclear norm too.
            error = (NUCLEAR if norm == "nuclear" else FLOAT64) * scale
            assert abs(bounds.within_norms[norm].value - within) < error
            # Autograd knows nothing of F, of class weights or of the decay's factor.
            assert abs(bounds.residual_norms[norm].value - e) < error
            distance = dense_distance(net.weight, K, norm)
            assert abs(bounds.distances[norm, K].value - distance) < 1e-11
            assert distance <= (within + e) / net.decay + 1e-11 * scale / net.decay
            whole = bounds.bound("B3", norm).value
            assert abs(whole * net.decay - within - e) < 2 * error
            assert bounds.bound("B3", norm).upper * net.decay >= within + e
            assert bounds.b3[norm, K].lower <= bounds.b2.upper
        assert bounds.b2.lower <= bounds.b1.upper


def test_levels_are_the_sums_of_the_theorem():
    net = draw(17)
    cross, divisor = measured(net, scatter_in="full")
    bounds = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=net.decay)
    s_delta, s_z = (dense_scatter(rows, net.labels) for rows in (net.delta, net.z))
    whole = float(net.delta.square().sum())
    b2, b1 = ((a * s_z) ** 0.5 / divisor / net.decay for a in (s_delta, whole))
    assert bounds.b2.value == pytest.approx(b2, rel=FLOAT64)
    assert bounds.b1.value == pytest.approx(b1, rel=FLOAT64)
    z = net.z.numpy()
    nu = np.linalg.svd(z, compute_uv=False) ** 2
    for k, a3 in bounds.a3.items():
        truth = (whole * nu[k:].sum()) ** 0.5 / divisor / net.decay
        assert a3.value == pytest.approx(truth, rel=1e-7, abs=1e-7)
        assert a3.lower <= truth <= a3.upper
        gradient = net.delta.numpy().T @ z / divisor / net.decay
        assert dense_distance(gradient, k, "nuclear") <= a3.upper
    assert bounds.a3[bounds.num_cells].lower <= bounds.b1.upper


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_profile_bounds_the_distance_at_every_rank(seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.arange(60) % 4
    z = torch.randn(4, 12, **options)[labels] + 0.2 * torch.randn(60, 12, **options)
    delta = torch.randn(4, 9, **options)[labels] + 0.2 * torch.randn(60, 9, **options)
    cross = cross_of(delta, z, labels, 4, scatter_in="full")
    # Stationary: weight_decay * W = -gradient.
    W = -(delta.T @ z) / 60 / 0.3
    bounds = rank_bounds(
        W, cross, divisor=60, weight_decay=0.3, ranks=range(10), norms=("frobenius",)
    )
    assert bounds.residual_norms["frobenius"].value < FLOAT64
    for k in range(10):
        distance = dense_distance(W, k, "frobenius")
        assert distance <= bounds.b3["frobenius", k].upper
        assert distance <= bounds.a3[k].upper
    # Below K the cells' own part is added, above K the part within is cut.
    within = dense_within(delta, z, labels)
    between = (delta.T @ z).numpy() - within
    parts = {2: (2, 0), 7: (4, 3)}
    for k, (j, rest) in parts.items():
        truth = sum(
            dense_distance(M / 60 / 0.3, r, "frobenius")
            for M, r in ((between, j), (within, rest))
        )
        assert bounds.b3["frobenius", k].value == pytest.approx(truth, rel=1e-10)


def test_exact_collapse_gives_rank_k_and_no_more_at_a_stationary_point():
    generator = torch.Generator().manual_seed(5)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.arange(30) % 3
    z, delta = torch.randn(3, 8, **options)[labels], torch.randn(30, 7, **options)
    cross = cross_of(delta, z, labels, 3)
    W = -(delta.T @ z) / 30 / 0.1
    bounds = rank_bounds(W, cross, divisor=30, weight_decay=0.1)
    assert bounds.b2.value == 0.0
    assert bounds.b3["nuclear", 3].value == 0.0
    assert bounds.distances["nuclear", 3].value < 1e-12
    assert bounds.distances["frobenius", 1].value > 1.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ridge_regression_is_a_stationary_point_under_the_bound(seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.arange(80) % 3
    x = torch.randn(3, 6, **options)[labels] + 0.05 * torch.randn(80, 6, **options)
    y = torch.randn(3, 5, **options)[labels] + 0.01 * torch.randn(80, 5, **options)
    decay = 0.02
    # MSELoss divides by N and by 5 outputs: lambda W + (2 / 400) (W x - y) x^T = 0.
    left = x.T @ x * (2 / 400) + decay * torch.eye(6, dtype=torch.float64)
    W = torch.linalg.solve(left, x.T @ y * (2 / 400)).T
    delta = 2.0 * (x @ W.T - y)
    cross = cross_of(delta, x, labels, 3)
    bounds = rank_bounds(W, cross, divisor=400, weight_decay=decay)
    assert bounds.relative_residual.value < FLOAT64
    for norm in NORMS:
        distance = dense_distance(W, 3, norm)
        assert distance <= bounds.b3[norm, 3].upper + 1e-13
        assert bounds.b3[norm, 3].value < 0.5 * bounds.weight_norms[norm].value
    # The mistakes a caller can make are no stationary point any more.
    for wrong in ({"divisor": 80}, {"weight_decay": 2 * decay}):
        given = {"divisor": 400, "weight_decay": decay, **wrong}
        assert rank_bounds(W, cross, **given).relative_residual.value > 0.1


def test_the_gradients_share_is_free_of_the_decay_and_bounds_its_distance():
    net = draw(23)
    cross, divisor = measured(net)
    shares = []
    for decay in (1e-3, 10.0):
        b = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=decay)
        shares.append(b.within_gradient_share.value)
    gradient = (net.delta.T @ net.z).numpy()
    R = dense_within(net.delta, net.z, net.labels)
    truth = np.linalg.norm(R) / np.linalg.norm(gradient)
    assert shares == pytest.approx([truth, truth], rel=1e-10)
    K = b.num_cells
    relative = dense_distance(gradient, K, "frobenius") / np.linalg.norm(gradient)
    assert b.gradient_distances[K].value == pytest.approx(relative, rel=1e-9)
    assert relative <= truth + FLOAT64


def test_the_sufficient_decay_is_the_one_whose_bound_is_the_distance():
    net = draw(31)
    cross, divisor = measured(net)
    b = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=net.decay)
    R = dense_within(net.delta, net.z, net.labels) / divisor
    for norm in NORMS:
        order = NUMPY_ORDER[norm]
        top = np.linalg.norm(R, order) + np.linalg.norm(net.slope, order)
        found = sufficient_weight_decay(b, 0.25, norm)
        assert found.value == pytest.approx(top / 0.25, rel=1e-10)
    with pytest.raises(DomainError, match="above 0, got 0"):
        sufficient_weight_decay(b, 0.0)


def test_statistics_that_are_not_centred_on_their_cells_are_refused():
    net = draw(41)
    cross, divisor = measured(net)
    uncentred = CrossSummary(cross.outputs, cross.inputs, net.delta.T @ net.z)
    with pytest.raises(DomainError, match="not centred on the cells"):
        rank_bounds(net.weight, uncentred, divisor=divisor, weight_decay=0.1)


def test_what_has_no_bound_says_why():
    net = draw(43)
    cross, divisor = measured(net)
    free = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=0.0)
    assert np.isnan(free.b2.value)
    assert "no weight decay" in free.bound().reason
    assert free.distances["frobenius", 1].value > 0.0
    spoilt = net.z.clone()
    spoilt[0, 0] = torch.inf
    cross = cross_of(net.delta, spoilt, net.labels, net.num_classes)
    lost = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=0.1)
    assert lost.b3["spectral", lost.num_cells].status == "nonfinite"
    assert "not finite" in lost.b1.reason
    assert lost.distances["spectral", 1].status == "ok"


def test_a_gradient_from_elsewhere_takes_the_place_of_the_statistics_own():
    net = draw(47)
    cross, divisor = measured(net)
    other = torch.ones_like(net.weight)
    bounds = rank_bounds(
        net.weight, cross, divisor=divisor, weight_decay=0.5, gradient=other
    )
    e = np.linalg.norm((other + 0.5 * net.weight).numpy())
    assert bounds.residual_norms["frobenius"].value == pytest.approx(e, rel=FLOAT64)


@pytest.mark.parametrize(
    ("changed", "kind", "words"),
    [
        ({"divisor": 0.0}, DomainError, "divisor must be above 0"),
        ({"weight_decay": -1.0}, DomainError, "at least 0 and finite"),
        ({"weight_decay": float("nan")}, DomainError, "must be known"),
        ({"ranks": [-1]}, DomainError, "whole numbers from 0"),
        ({"norms": ["fro"]}, UnknownNameError, "norm must be one of"),
        ({"gradient": torch.zeros(1, 1)}, ShapeError, "gradient must have the shape"),
    ],
)
def test_bad_requests_are_refused(changed, kind, words):
    net = draw(3)
    cross, divisor = measured(net)
    given = {"divisor": divisor, "weight_decay": 0.1, **changed}
    with pytest.raises(kind, match=words):
        rank_bounds(net.weight, cross, **given)


def test_a_level_that_was_not_measured_is_refused():
    net = draw(3)
    cross, divisor = measured(net)
    b = rank_bounds(net.weight, cross, divisor=divisor, weight_decay=0.1)
    with pytest.raises(DomainError, match="keep scatter_in='full'"):
        b.bound("A3")
