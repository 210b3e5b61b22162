"""The claims' own formulas: printed numbers, closed forms, Monte Carlo, `predict`."""

import math

import numpy as np
import pytest
from scipy.special import beta, polygamma, psi
from scipy.stats import binom, kstest
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.experiments.georgiev2021stable.estimates import (
    jackknifed,
    kolmogorov_distances,
)
from spectrank.experiments.georgiev2021stable.signal import laws, spectra
from spectrank.experiments.georgiev2021stable.signal.pieces import mean_kinks
from spectrank.experiments.georgiev2021stable.signal.stacks import Stack
from spectrank.linalg.ensembles.make import ensemble
from spectrank.propagation.theory.predict import predict
from spectrank.random_nets import RandomMLP

# Of integrals over the whole line by the trapezoidal rule.
INTEGRAL = 1e-10


def he_flat(r, n, m):
    return laws.LayerLaw(spectra.scaled(spectra.flat_squares(r), 2.0 * m), n, m)


# ------------------------------------------------------------- printed numbers


@pytest.mark.parametrize(
    ("rank", "mean", "variance"),
    [(4, -1.739, 4.161), (8, -0.897, 1.994), (32, -0.306, 0.678)],
)
def test_logs_of_six_layers_are_the_printed_numbers(rank, mean, variance):
    found = 6.0 * he_flat(rank, 32, 32).log_cumulants()
    assert found[0] == pytest.approx(mean, abs=5e-4)
    assert found[1] == pytest.approx(variance, abs=5e-4)


@pytest.mark.parametrize(("rank", "length"), [(3, 0.704), (8, 0.862), (24, 0.937)])
def test_lengths_of_four_layers_are_the_printed_numbers(rank, length):
    assert he_flat(rank, 24, 24).mean_root() ** 4 == pytest.approx(length, abs=5e-4)


def test_gradients_of_the_example_are_the_printed_number_and_not_the_forward_one():
    stack = Stack("spike", 3.0, (10, 24, 12, 30, 7))
    backward = math.prod(layer.second_moment for layer in stack.backward)
    forward = math.prod(layer.second_moment for layer in stack.output)
    assert backward == pytest.approx(2.627, abs=5e-4)
    assert forward == pytest.approx(2.814, abs=5e-4)


def test_the_squared_cosine_of_the_example_is_the_printed_one():
    kappa = laws.LayerLaw(spectra.flat_squares(4.0), 32, 32, relu=False).kappa
    base = (1.0 + 2.0 * kappa) / (1.0 - kappa)
    found = [(base**k - 1.0) / (base**k + 2.0) for k in (1, 2, 3, 4)]
    assert found == pytest.approx([0.2154, 0.4366, 0.6280, 0.7702], abs=5e-5)


def test_new_kinks_of_width_five_are_the_printed_ones():
    assert mean_kinks((5, 5, 5, 5)) == pytest.approx([5, 4.06, 3.30, 2.68], abs=6e-3)


# --------------------------------------------------------------- closed forms


def test_logs_of_a_flat_layer_are_digammas():
    r, n, m = 5, 12, 9
    found = laws.LayerLaw(spectra.flat_squares(r), n, m, relu=False).log_cumulants()
    closed = [
        psi(r / 2) - psi(n / 2),
        polygamma(1, r / 2) - polygamma(1, n / 2),
        polygamma(2, r / 2) - polygamma(2, n / 2),
    ]
    assert np.abs(found - closed).max() < INTEGRAL


def test_roots_of_a_flat_layer_are_beta_functions():
    r, n, m = 5, 12, 6
    root = beta(r / 2 + 0.5, (n - r) / 2) / beta(r / 2, (n - r) / 2)
    mask = binom.pmf(m, m, 0.5)
    for N in range(1, m):
        share = beta(N / 2 + 0.5, (m - N) / 2) / beta(N / 2, (m - N) / 2)
        mask += binom.pmf(N, m, 0.5) * share
    found = laws.LayerLaw(spectra.flat_squares(r), n, m).mean_root()
    assert found == pytest.approx(root * mask, rel=INTEGRAL)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_layer_agrees_with_monte_carlo(seed):
    # Not Haar matrices: the uniform direction in the eigenbasis of W^T W, and a sign
    # and a uniform direction for the ReLU.
    rng = np.random.default_rng(seed)
    squares, n, m, num = (3.0, 1.0, 1.0, 0.2), 7, 6, 200_000
    law = laws.LayerLaw(squares, n, m)
    v = rng.normal(size=(num, n)) ** 2
    z = rng.normal(size=(num, m))
    kept = (np.maximum(z, 0.0) ** 2).sum(1) / (z**2).sum(1)
    y = (v[:, :4] @ np.array(squares)) / v.sum(1) * kept

    def near(sample, truth):
        error = sample.std() / math.sqrt(len(sample))
        return abs(sample.mean() - truth) < STANDARD_ERRORS * error

    assert near(y, law.mean)
    assert near(y**2, law.second_moment * law.mean**2)
    assert near(np.sqrt(y), law.mean_root())
    logs = np.log(y[y > 0.0])
    k1, k2, k3 = law.log_cumulants()
    assert near(logs, k1)
    assert near((logs - k1) ** 2, k2)
    assert near((logs - k1) ** 3, k3)


# ------------------------------------------------------------ library's theory


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize(("spectrum", "rank"), [("flat", 4.0), ("spike", 2.7)])
def test_the_library_and_the_claims_state_the_same_theory(spectrum, rank, activation):
    widths = (10, 24, 12, 30, 7)
    stack = Stack(spectrum, rank, widths, activation)
    table = predict(stack.point().law)
    L, names = len(widths) - 1, stack.point().law.parameter_names

    def stated(metric, layer, variant=None):
        rows = table.where(subject=names[layer - 1], metric=metric, index=layer)
        (row,) = [r for r in rows if r["variant"] == variant]
        assert row["route"] == "exact"
        return row["value"]

    # Inside the network a ReLU follows (post); the output has none (pre).
    for layers, depth, variant in (
        (stack.layers[:-1], L - 1, "post"),
        (stack.output, L, "pre"),
    ):
        cumulants = sum(layer.log_cumulants() for layer in layers)
        gain = math.prod(layer.mean for layer in layers)
        moment = math.prod(layer.second_moment for layer in layers)
        root = math.prod(layer.mean_root() for layer in layers)
        for metric, own in (
            ("signal_gain", gain),
            ("signal_second_moment", moment),
            ("log_signal_mean", cumulants[0]),
            ("log_signal_variance", cumulants[1]),
            ("length_gain", root),
        ):
            assert stated(metric, depth, variant) == pytest.approx(own, rel=INTEGRAL)
    for layer in range(1, L + 1):
        assert stated("collapse_depth", layer) == pytest.approx(
            1.0 / (3.0 * stack.layers[layer - 1].kappa), rel=FLOAT64
        )
    gain = math.prod(layer.mean for layer in stack.backward)
    moment = math.prod(layer.second_moment for layer in stack.backward)
    variance = sum(layer.log_cumulants()[1] for layer in stack.backward)
    assert stated("gradient_gain", 1) == pytest.approx(gain, rel=FLOAT64)
    assert stated("gradient_second_moment", 1) == pytest.approx(moment, rel=FLOAT64)
    assert stated("log_gradient_variance", 1) == pytest.approx(variance, rel=INTEGRAL)
    if activation == "relu":
        for layer, own in enumerate(mean_kinks(widths[1:-1]), start=1):
            assert stated("new_kinks", layer) == pytest.approx(own, rel=FLOAT64)


def test_the_second_moment_of_mp_spike_is_the_library_s():
    net = RandomMLP((12, 20, 15, 4), stable_rank=(3, 2.5, 1.5))
    rows = predict(net).where(metric="signal_second_moment", variant="post", index=2)
    own = math.prod(
        laws.relative_second_moment(spectra.mp_spike_ratio(r, m, n), n, m)
        for r, m, n in ((3, 20, 12), (2.5, 15, 20))
    )
    assert next(iter(rows))["value"] == pytest.approx(own, rel=FLOAT64)


# -------------------------------------------------------------------- spectra


@pytest.mark.parametrize(
    "spectrum", ["flat", "spike", "mp-spike", "slice", "power", "exp"]
)
@pytest.mark.parametrize(
    ("m", "n", "r"), [(24, 36, 1.5), (36, 24, 3.0), (30, 30, 5.0), (9, 7, 2.25)]
)
def test_fourth_moments_are_those_of_the_library(spectrum, m, n, r):
    law = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    assert spectra.expected_a2(spectrum, r, m, n) == pytest.approx(
        law.moments.a2, rel=1e-7
    )


@pytest.mark.parametrize("ratio", [1.5, 4.0, 12.0, 19.0])
def test_a_spike_has_the_participation_ratio_it_was_made_for(ratio):
    p = 20
    rank = spectra.spike_stable_rank(ratio, p)
    law = laws.LayerLaw(spectra.spike_squares(rank, p, 33), 33, p)
    assert law.energy == pytest.approx(rank, rel=FLOAT64)
    assert law.participation_ratio == pytest.approx(ratio, rel=FLOAT64)
    assert rank < ratio


def test_an_orthogonal_layer_never_turns_a_pair_of_vectors():
    law = laws.LayerLaw(spectra.flat_squares(6.0), 6, 6, relu=False)
    assert law.kappa == pytest.approx(0.0, abs=FLOAT64)
    assert law.second_moment == pytest.approx(1.0, rel=FLOAT64)


# ----------------------------------------------------------------- estimators


def test_the_jackknife_of_a_plug_in_variance_is_the_unbiased_one():
    y = np.random.default_rng(0).normal(size=(3, 7))
    recorded = np.stack([y, y**2], -1)
    found = jackknifed(lambda m: m[..., 1] - m[..., 0] ** 2, recorded)
    assert np.abs(found - y.var(1, ddof=1)).max() < FLOAT64
    # A linear statistic has no bias and keeps its value.
    assert np.abs(jackknifed(lambda m: m[..., 0], recorded) - y.mean(1)).max() < FLOAT64


def test_kolmogorov_distances_are_scipy_s():
    u = np.random.default_rng(0).uniform(size=(4, 50)) ** 1.5
    peer = [kstest(row, "uniform").statistic for row in u]
    assert np.abs(kolmogorov_distances(u) - peer).max() < FLOAT64
