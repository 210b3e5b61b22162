"""The closed form against scalar search, matrix optimisation and the oracle table."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.collapse.forecasting import (
    deep_linear,
    interpolation_limit,
    linear_modes,
    minimise,
    mse_weight_decay,
)
from spectrank.errors import DomainError, ShapeError

S = (2.0, 1.2, 0.6, 0.25)
# Theory note, section 2.4, to the four decimals that it prints.
TABLE = {
    (2, 0.5): (1.2247, 0.8367, 0.3162, 0.0),
    (3, 0.05): (1.2515, 1.0484, 0.8136, 0.5399),
    (3, 0.2): (1.2246, 1.0, 0.6708, 0.0),
    (3, 0.5): (1.1622, 0.8484, 0.0, 0.0),
    (4, 0.05): (1.1839, 1.0363, 0.8538, 0.0),
    (4, 0.2): (1.1667, 1.0, 0.0, 0.0),
    (4, 0.5): (1.1256, 0.0, 0.0, 0.0),
}
THRESHOLDS = {3: (1.0, 0.506, 0.201, 0.062), 4: (0.770, 0.358, 0.126, 0.034)}


def scalar_objective(sigma: np.ndarray, s: float, depth: int, decay: float):
    return 0.5 * (sigma**depth - s) ** 2 + 0.5 * decay * depth * sigma**2


def scalar_search(s: float, depth: int, decay: float) -> tuple[float, float]:
    """Global minimum of the scalar problem, by refined grids."""
    low, high = 0.0, 1.5 * max(s, 1.0) ** (1 / depth)
    for _ in range(12):
        grid = np.linspace(low, high, 4001)
        values = scalar_objective(grid, s, depth, decay)
        best = int(values.argmin())
        low, high = grid[max(best - 2, 0)], grid[min(best + 2, 4000)]
    return float(grid[best]), float(values[best])


@pytest.mark.parametrize(("depth", "decay"), TABLE)
def test_deep_linear_equals_the_table_of_the_theory(depth, decay):
    found = deep_linear(S, depth, decay)
    assert found.sigma.tolist() == pytest.approx(TABLE[depth, decay], abs=5.1e-5)
    assert found.rank == sum(x > 0 for x in TABLE[depth, decay])


@pytest.mark.parametrize("depth", THRESHOLDS)
def test_global_thresholds_equal_the_table_of_the_theory(depth):
    found = deep_linear(S, depth, 0.1)
    assert found.global_thresholds.tolist() == pytest.approx(
        THRESHOLDS[depth], abs=5.1e-4
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_the_global_minimum_is_that_of_a_scalar_search(depth):
    for s, decay in itertools.product((0.03, 0.4, 1.0, 2.7), (1e-3, 0.05, 0.3, 1.1)):
        found = deep_linear([s], depth, decay)
        threshold = float(found.global_thresholds[0])
        assert abs(decay / threshold - 1) > 1e-3, "the case sits on a threshold"
        sigma, value = scalar_search(s, depth, decay)
        assert float(found.sigma[0]) == pytest.approx(sigma, abs=2e-7)
        assert found.excess == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_the_global_threshold_is_where_the_search_drops_the_mode(depth):
    for s in (0.05, 0.8, 3.0):
        threshold = float(deep_linear([s], depth, 0.1).global_thresholds[0])
        kept = deep_linear([s], depth, threshold * (1 - 1e-6))
        dropped = deep_linear([s], depth, threshold * (1 + 1e-6))
        assert kept.branches == ("kept",)
        assert dropped.branches == ("zero" if depth == 2 else "metastable",)
        # Just below, the search keeps the mode; just above, zero is better.
        # The objective is flat to rounding within 1e-8 of zero.
        assert scalar_search(s, depth, threshold * (1 - 1e-4))[0] > 1e-3
        assert scalar_search(s, depth, threshold * (1 + 1e-4))[0] < 1e-7


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_a_metastable_mode_is_a_local_minimum_up_to_the_local_threshold(depth):
    for s in (0.05, 0.8, 3.0):
        found = deep_linear([s], depth, 0.1)
        local, top = float(found.local_thresholds[0]), float(found.global_thresholds[0])
        assert local > top
        decay = math.sqrt(local * top)
        between = deep_linear([s], depth, decay)
        sigma = float(between.stationary_sigma[0])
        assert between.branches == ("metastable",)
        assert between.sigma.tolist() == [0.0]
        around = scalar_objective(sigma * np.array([0.99, 1, 1.01]), s, depth, decay)
        assert around[1] < around[0]
        assert around[1] < around[2]
        assert around[1] > scalar_objective(np.array(0.0), s, depth, decay)
        # Beyond the local threshold the scalar objective only rises.
        grid = np.linspace(0, 2 * max(s, 1), 20001)
        above = scalar_objective(grid, s, depth, local * (1 + 1e-4))
        below = scalar_objective(grid, s, depth, local * (1 - 1e-2))
        assert (np.diff(above) > 0).all()
        assert (np.diff(below) < 0).any()
        assert deep_linear([s], depth, local * (1 + 1e-4)).branches == ("zero",)


def test_modes_scale_as_the_equation_does():
    # sigma -> c sigma, s -> c^L s, lambda -> c^(2L-2) lambda leaves it unchanged.
    c, depth = 1e30, 3
    plain = deep_linear(S, depth, 0.2)
    for factor in (c, 1 / c):
        scaled = deep_linear(
            [s * factor**depth for s in S], depth, 0.2 * factor ** (2 * depth - 2)
        )
        assert scaled.branches == plain.branches
        assert (scaled.sigma / factor).tolist() == pytest.approx(
            plain.sigma.tolist(), rel=1e-12
        )


def test_hard_numbers_stay_finite():
    found = deep_linear([1e200, 1e-200, 0.0], 3, 1e-3)
    assert found.branches == ("kept", "zero", "zero")
    assert float(found.sigma[0]) == pytest.approx(1e200 ** (1 / 3), rel=1e-14)
    assert found.global_thresholds[2].item() == 0.0


def test_without_decay_every_mode_is_fitted():
    for depth in (1, 2, 3, 5):
        found = deep_linear(S, depth, 0.0)
        assert (found.sigma**depth).tolist() == pytest.approx(S, rel=1e-14)
        assert found.excess == pytest.approx(0.0, abs=1e-28)


def test_a_narrow_network_keeps_the_largest_modes():
    whole, narrow = deep_linear(S, 3, 0.05), deep_linear(S, 3, 0.05, max_rank=2)
    assert narrow.sigma.tolist() == [*whole.sigma.tolist()[:2], 0.0, 0.0]
    assert narrow.branches == ("kept", "kept", "zero", "zero")
    # Any other pair is worse.
    values = [
        scalar_search(s, 3, 0.05)[1] - 0.5 * s * s for s in S
    ]  # gain over leaving the mode out
    assert min(
        itertools.combinations(range(4), 2), key=lambda p: sum(values[i] for i in p)
    ) == (0, 1)


def whitened(num: int, dim: int, modes: tuple[float, ...], seed: int):
    """Whitened inputs and targets whose cross moment has these singular values."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    q = torch.linalg.qr(draw(num, dim + 1)).Q * math.sqrt(num)
    x, rest = q[:, :dim], q[:, dim:]
    k = len(modes)
    left, right = torch.linalg.qr(draw(k, k)).Q, torch.linalg.qr(draw(dim, k)).Q
    M = left @ torch.diag(torch.tensor(modes, dtype=torch.float64)) @ right.mT
    # The rest is orthogonal to the inputs: it cannot be fitted.
    return x, x @ M.mT + 0.3 * rest @ draw(1, k)


def linear_net(widths: list[int], seed: int, scale: float = 1.0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        *[nn.Linear(n, m, bias=False) for n, m in itertools.pairwise(widths)]
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(
                scale
                * torch.randn(p.shape, dtype=torch.float64, generator=generator)
                / math.sqrt(p.shape[1])
            )
    return net


@pytest.mark.parametrize("widths", [[6, 5, 3], [6, 4, 5, 3], [6, 5, 4, 7, 3]])
def test_the_best_matrix_minimum_has_the_forecast_values_in_every_layer(widths):
    x, y = whitened(40, 6, S[:3], seed=len(widths))
    assert linear_modes(x, y).tolist() == pytest.approx(S[:3], rel=1e-12)
    w = 2 * 0.2 / 3
    decay = mse_weight_decay(w, 3)
    assert decay == pytest.approx(0.2, rel=1e-15)
    found = deep_linear(S[:3], len(widths) - 1, decay)
    minima = [
        minimise(linear_net(widths, seed, 1.5), x, y, loss="mse", weight_decay=w)
        for seed in range(8)
    ]
    best = min(minima, key=lambda m: m.objective)
    # MSELoss(mean) is 2/d_out times the half square of the closed form.
    floor = 0.5 * float(y.square().sum() / len(x)) - 0.5 * sum(s * s for s in S[:3])
    assert best.objective == pytest.approx((floor + found.excess) * 2 / 3, rel=1e-9)
    for p in best.model.parameters():
        sigma = torch.linalg.svdvals(p.detach())
        assert sigma[:3].tolist() == pytest.approx(found.sigma.tolist(), abs=1e-5)
        assert float(sigma[3:].sum()) < 1e-5
    assert found.rank == {2: 3, 3: 3, 4: 2}[len(widths) - 1]


def test_the_interpolation_limit_is_where_small_decay_leads():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 9, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    limit = interpolation_limit(x, y, 2)
    found = min(
        (
            minimise(linear_net([9, 6, 3], seed), x, y, loss="mse", weight_decay=1e-6)
            for seed in range(2)
        ),
        key=lambda m: m.objective,
    )
    for p in found.model.parameters():
        sigma = torch.linalg.svdvals(p.detach())
        assert sigma[:3].tolist() == pytest.approx(limit.tolist(), rel=1e-4)
        assert float(sigma[3:].sum()) < 1e-3


def test_the_interpolation_limit_of_labels_has_their_rank():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(12, 30, dtype=torch.float64, generator=generator)
    y = torch.zeros(12, 5, dtype=torch.float64)
    y[torch.arange(12), torch.arange(12) % 3] = 1.0
    limit = interpolation_limit(x, y, 4)
    assert [bool(s > 0) for s in limit] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: deep_linear([1.0], 0, 0.1), DomainError, "num_layers must be"),
        (lambda: deep_linear([1.0], 2, -0.1), DomainError, "weight_decay must be"),
        (lambda: deep_linear([-1.0], 2, 0.1), DomainError, "at least 0"),
        (lambda: deep_linear([math.nan], 2, 0.1), DomainError, "finite"),
        (lambda: deep_linear([1.0], 2, 0.1, max_rank=0), DomainError, "max_rank"),
        (lambda: deep_linear([[1.0]], 2, 0.1), ShapeError, "vector"),
        (
            lambda: linear_modes(2 * torch.eye(3), torch.eye(3)),
            DomainError,
            "whitened inputs",
        ),
        (
            lambda: linear_modes(torch.eye(3), torch.ones(2, 3)),
            ShapeError,
            "one row a sample",
        ),
        (
            lambda: interpolation_limit(torch.eye(3), torch.eye(3), 0),
            DomainError,
            "num_layers",
        ),
    ],
)
def test_requests_out_of_range_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
