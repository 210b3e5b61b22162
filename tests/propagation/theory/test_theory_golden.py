"""Numbers that the derivations print, and limits that they name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import digamma

from spectrank.errors import DomainError
from spectrank.linalg.layer_moments.one_layer import (
    gram_moments,
    layer_second_moment,
    norm_moments,
)
from spectrank.propagation.theory.angles import (
    collapse_depth,
    jacobian_log_spread,
    jacobian_variance_limit,
    kappa,
    squared_cosine,
)
from spectrank.propagation.theory.depth import (
    betas,
    gradient_moments,
    signal_logs,
    signal_moments,
)
from spectrank.propagation.theory.kinks import new_kinks, pattern_changes
from spectrank.random_nets import LayerLaw, RandomMLP


def laws(widths: list[int], spectrum: str, r: float | None, **options: Any) -> Any:
    return RandomMLP(widths, stable_rank=r, spectrum=spectrum, **options).layers


def gaussian_moments(m: int, n: int) -> tuple[float, float, float]:
    """Of independent standard normal entries."""
    mn = float(m * n)
    return mn, mn * (mn + 2.0), mn * (m + n + 1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_a_square_gaussian_relu_layer_has_second_moment_m_plus_5_over_m(n: int) -> None:
    moment = layer_second_moment(n, n, *gaussian_moments(n, n), slope=0.0)
    assert moment == pytest.approx((n + 5.0) / n, rel=1e-14)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_an_orthogonal_relu_layer_fluctuates_by_its_mask_alone(n: int) -> None:
    moment = layer_second_moment(n, n, n, n * n, n, slope=0.0)
    assert moment == pytest.approx(1.0 + 3.0 / (n + 2.0), rel=1e-12)
    assert layer_second_moment(n, n, n, n * n, n, slope=1.0) == 1.0


def test_a_gaussian_6_by_9_layer_has_the_right_variance_and_not_the_short_one() -> None:
    a1, q, a2 = gaussian_moments(6, 9)
    _, variance = gram_moments(9, 0.7, a1, q, a2)
    # Entries are independent: Var Wx.Wy = m (1 + c^2), relative variance 2/m.
    assert variance == pytest.approx(6 * 1.49, rel=1e-12)
    assert norm_moments(9, a1, q, a2)[1] - 1.0 == pytest.approx(1 / 3, rel=1e-12)
    # The forms in rho hold for fixed a1 only: with the Gaussian's they are too small.
    beta = (9 * a2 - q) / (9 * 8 * 11)
    assert beta * (1 + 0.49 * 7 / 9) == pytest.approx(8.29, abs=0.01)
    rho = 6 * 9 / (6 + 9)
    assert 2.0 * (9 / rho - 1.0) / 11 == pytest.approx(0.273, abs=5e-4)


@pytest.mark.parametrize(
    ("r", "mean", "variance"),
    [(4, -1.739, 4.161), (8, -0.897, 1.994), (32, -0.306, 0.678)],
)
def test_log_norm_of_six_relu_layers_of_width_32(
    r: int, mean: float, variance: float
) -> None:
    layers = laws([32] * 7, "flat", r)
    total = signal_logs(layers, 0.0)[0][-1]
    assert total.mean == pytest.approx(mean, abs=6e-4)
    assert total.variance == pytest.approx(variance, abs=6e-4)
    assert total.exact


def test_leading_order_underestimates_at_small_rho() -> None:
    layers = laws([32] * 7, "flat", 4)
    # betas leave out the last layer's mask: h_L has it.
    beta = betas(layers, 0.0)[0][-1] + 3.0 / 32.0
    assert (-beta / 2.0, beta) == pytest.approx((-1.59, 3.19), abs=5e-3)


def test_output_and_last_activation_differ_by_a_mask() -> None:
    layers = laws([10, 24, 12, 30, 7], "flat", 3)
    post, pre = signal_moments(layers, 0.0)
    assert math.exp(pre[-1].log_second) == pytest.approx(7.07, abs=5e-3)
    assert math.exp(post[-1].log_second) == pytest.approx(9.42, abs=5e-3)


def test_gradients_do_not_obey_the_forward_law_when_widths_differ() -> None:
    layers = laws([10, 24, 12, 30, 7], "spike", 3)
    backward = math.exp(gradient_moments(layers, 0.0)[0].log_second)
    forward = math.exp(signal_moments(layers, 0.0)[1][-1].log_second)
    assert (backward, forward) == pytest.approx((2.627, 2.814), abs=5e-4)


def test_gradients_obey_the_forward_law_when_widths_agree() -> None:
    layers = laws([6] * 5, "power", 2)
    backward, forward = gradient_moments(layers, 0.0)[0], signal_moments(layers, 0.0)[1]
    assert backward.log_gain == pytest.approx(forward[-1].log_gain, abs=1e-12)
    assert backward.log_second == pytest.approx(forward[-1].log_second, rel=1e-12)


def test_betas_forward_and_backward_drop_the_output_mask() -> None:
    layers = laws([10, 24, 12, 30, 7], "flat", 3)
    forward, backward = betas(layers, 0.0)
    ns, hidden = [10, 24, 12, 30, 7], [24, 12, 30]
    masks = sum(3 / n for n in hidden)
    assert forward[-1] == pytest.approx(8 / 3 - sum(2 / n for n in ns[:-1]) + masks)
    assert backward[0] == pytest.approx(8 / 3 - sum(2 / n for n in ns[1:]) + masks)
    assert forward[0] == pytest.approx(2 / 3 - 2 / 10 + 3 / 24)
    assert backward[-1] == pytest.approx(2 / 3 - 2 / 7)
    assert betas(layers, 1.0)[0][0] == pytest.approx(2 / 3 - 2 / 10)


@pytest.mark.parametrize("r", [2, 6.5, 16])
def test_beta_is_the_leading_order_of_the_log_second_moment(r: float) -> None:
    for scale in (10, 100):
        layers = laws([16 * scale] * 4, "spike", r * scale)
        exact = signal_moments(layers, 0.0)[1][-1].log_second
        beta = betas(layers, 0.0)[0][-1]
        assert exact == pytest.approx(beta, rel=8.0 / scale)


@pytest.mark.parametrize(
    ("spectrum", "r", "slope", "limit", "measured"),
    [
        ("flat", 60, 1.0, 15.0, 15.9),
        ("spike", 60, 1.0, 0.188, 0.192),
        ("flat", 60, 0.0, 19.0, 18.8),
        ("spike", 60, 0.0, 4.19, 4.25),
        ("flat", 120, 0.0, 9.0, 9.05),
    ],
)
def test_jacobian_eigenvalue_variance_of_five_layers_of_width_240(
    spectrum: str, r: float, slope: float, limit: float, measured: float
) -> None:
    layers = laws([240] * 6, spectrum, r)
    assert jacobian_variance_limit(layers, slope) == pytest.approx(limit, abs=5e-3)
    annealed = math.expm1(jacobian_log_spread(layers, slope))
    # The printed numbers are means of a network's own ratio, this is a ratio of means.
    assert annealed == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_annealed_jacobian_variance_approaches_the_limit(slope: float) -> None:
    gaps = []
    for n in (100, 1000, 10000):
        layers = laws([n] * 4, "flat", n / 4)
        limit = jacobian_variance_limit(layers, slope)
        annealed = math.expm1(jacobian_log_spread(layers, slope))
        gaps.append(abs(annealed / limit - 1.0))
    assert gaps[0] > 5.0 * gaps[1] > 25.0 * gaps[2]


def test_jacobian_variance_of_unequal_widths_has_no_limit() -> None:
    with pytest.raises(DomainError, match="equal widths"):
        jacobian_variance_limit(laws([4, 5, 4], "flat", 2), 0.0)


def test_jacobian_of_one_orthogonal_layer_has_equal_eigenvalues() -> None:
    assert jacobian_log_spread(laws([6, 6], "orthogonal", None), 0.0) == pytest.approx(
        0.0, abs=1e-14
    )
    # 9 outputs of 4 inputs: 4 eigenvalues of one and 5 of zero.
    spread = jacobian_log_spread(laws([4, 9], "orthogonal", None), 0.0)
    assert math.exp(spread) == pytest.approx(9 / 4, rel=1e-12)


def test_squared_cosine_of_width_32_flat_4() -> None:
    values = squared_cosine(laws([32] * 5, "flat", 4), 0.0)
    assert values == pytest.approx([0.2154, 0.4366, 0.6280, 0.7702], abs=5e-5)


def test_squared_cosine_has_its_closed_form() -> None:
    layers = laws([9] * 41, "power", 2.5)
    k = kappa(layers[0])
    for start in (0.0, 0.4, 1.0):
        q = squared_cosine(layers, start)
        if start == 1.0:
            assert q == pytest.approx([1.0] * 40, abs=1e-14)
            continue
        base = (1.0 + 2.0 * k) / (1.0 - k)
        first = (1.0 + 2.0 * start**2) / (1.0 - start**2)
        for depth in (1, 5, 20):
            x = base**depth * first
            assert q[depth - 1] == pytest.approx((x - 1.0) / (x + 2.0), rel=1e-9)


@pytest.mark.parametrize(("rho", "depth"), [(128, 86), (250, 3570)])
def test_collapse_depth_at_width_256(rho: int, depth: float) -> None:
    law = laws([256, 256], "flat", rho)[0]
    # The number printed is 1/(3(1/rho - 1/n)), the leading order of 1/(3 kappa).
    assert 1 / (3 * (1 / rho - 1 / 256)) == pytest.approx(depth, abs=15)
    assert collapse_depth(law) == pytest.approx(depth, rel=0.02)


def test_orthogonal_layers_never_collapse_but_wide_to_narrow_ones_do() -> None:
    assert collapse_depth(laws([7, 7], "orthogonal", None)[0]) == math.inf
    assert collapse_depth(laws([5, 9], "orthogonal", None)[0]) == math.inf
    assert collapse_depth(laws([9, 5], "orthogonal", None)[0]) < 10.0
    assert collapse_depth(laws([1, 5], "flat", 1)[0]) == math.inf


@pytest.mark.parametrize(("r", "length"), [(3, 0.704), (8, 0.862), (24, 0.937)])
def test_length_after_four_relu_layers_of_width_24(r: int, length: float) -> None:
    post, _ = signal_logs(laws([24] * 5, "flat", r), 0.0)
    assert math.exp(post[-1].log_half) == pytest.approx(length, abs=6e-4)


def test_length_of_gaussian_layers_shrinks_as_five_eighths_of_depth_over_width() -> (
    None
):
    layers = laws([400] * 9, "gaussian", None)
    post, _ = signal_logs(layers, 0.0)
    assert post[-1].log_half == pytest.approx(-5 / 8 * 8 / 400, rel=0.02)


def test_kinks_of_a_network_of_width_five() -> None:
    layers = laws([5] * 5 + [1], "flat", 2)
    # The printed Monte Carlo: 5, 4.10, 3.33, 2.70 and 5, 4.86, 4.72, 4.59.
    assert new_kinks(layers, 0.0) == pytest.approx([5, 4.06, 3.30, 2.68], abs=5e-3)
    changes = pattern_changes(layers, 0.0)
    assert changes == pytest.approx([5, 4.84, 4.69, 4.55], abs=6e-3)
    assert new_kinks(layers, 0.01) == [5.0] * 4


def test_wide_layers_keep_all_their_kinks_and_rank_one_keeps_none_known() -> None:
    assert new_kinks(laws([2000] * 4, "flat", 2), 0.0) == [2000.0] * 2
    assert pattern_changes(laws([2000] * 4, "flat", 2), 0.0) == [2000.0] * 2
    first, second = new_kinks(laws([5, 6, 7, 2], "flat", 1), 0.0)
    assert first == 6.0
    assert math.isnan(second)
    # Behind a single unit nothing turns, and half the time nothing is switched.
    assert new_kinks(laws([5, 1, 6, 2], "flat", 1), 0.0) == [1.0, 0.0]
    assert pattern_changes(laws([5, 1, 6, 2], "flat", 1), 0.0) == [1.0, 3.0]


def typical_law(m: int, n: int, log_scale: float) -> LayerLaw:
    a1 = math.exp(log_scale)
    return LayerLaw(m, n, "flat", 6.0, math.sqrt(a1 / 6.0), a1, a1**2, a1**2 / 6.0, 6.0)


def test_typical_scale_holds_the_log_norm_per_neuron() -> None:
    widths = [16, 48, 24, 48]
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    total = signal_logs([typical_law(m, n, 0.0) for m, n in pairs], 0.0)[0][-1]
    drift = total.mean - math.log(48 / 16)
    # The exact scale of every layer: log s^2 by digammas, as printed for flat.
    exact = 0.0
    for m, n in pairs:
        N = np.arange(1, m + 1)
        weights = np.array([float(math.comb(m, k)) for k in N]) / (2.0**m - 1.0)
        log_s2 = math.log(m / n) + digamma(n / 2) - digamma(3) + digamma(m / 2)
        exact += log_s2 - weights @ digamma(N / 2) + math.log(6)
    assert drift + exact == pytest.approx(0.0, abs=1e-12)
    # Without log(m/n) the total norm is held instead: -log(48/16) = -1.0986 a neuron.
    # Leading order, a1 = 2m exp(1/rho - 1/n + 3/(2m)).
    leading = sum(math.log(2 * m) + 1 / 6 - 1 / n + 1.5 / m for m, n in pairs)
    assert drift + leading == pytest.approx(0.0, abs=0.06 * len(pairs))
    assert drift + leading - math.log(48 / 16) == pytest.approx(-1.095, abs=0.2)


def test_spectral_norms_make_the_signal_linear_in_every_stable_rank() -> None:
    widths = [12, 16, 20, 8]
    base = laws(widths, "flat", 2, norm="spectral", sigma=1.3)
    for i in range(3):
        ranks = [2.0] * 3
        ranks[i] = 6.0
        other = laws(widths, "flat", ranks, norm="spectral", sigma=1.3)
        gain = signal_moments(other, 0.0)[1][-1].log_gain
        before = signal_moments(base, 0.0)[1][-1].log_gain
        assert gain - before == pytest.approx(math.log(3.0), abs=1e-12)


def test_frobenius_norms_leave_no_stable_rank_in_the_mean() -> None:
    for r in (1.0, 2.5, 8.0):
        post, _ = signal_moments(laws([12, 16, 20, 8], "spike", r), 0.0)
        # He: every hidden layer keeps the mean square per neuron.
        assert [math.exp(x.log_gain) for x in post] == pytest.approx(
            [16 / 12, 20 / 12, 8 / 12], rel=1e-12
        )


def test_fluctuations_of_a_chain_are_products_and_ignore_the_order() -> None:
    ranks = [2.0, 5.0, 3.5]
    a = signal_moments(laws([8] * 4, "flat", ranks), 0.0)[0][-1]
    b = signal_moments(laws([8] * 4, "flat", ranks[::-1]), 0.0)[0][-1]
    assert a.log_second == pytest.approx(b.log_second, rel=1e-14)
    single = [signal_moments(laws([8, 8], "flat", r), 0.0)[0][0] for r in ranks]
    assert a.log_second == pytest.approx(sum(x.log_second for x in single), rel=1e-14)
