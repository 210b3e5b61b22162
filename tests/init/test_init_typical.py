"""The typical scale: digamma forms and Monte Carlo over drawn layers."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from scipy.stats import binom
from tolerances import STANDARD_ERRORS
from torch import nn

from spectrank.init import apply_, stable_rank_, typical
from spectrank.init.typical import typical_spectral_norm
from spectrank.linalg import ensemble
from spectrank.linalg.ensembles import temper
from spectrank.linalg.layer_moments import spectra
from spectrank.linalg.layer_moments.log_norms import layer_log_norm

SEEDS = (1, 2, 3)


def active_psi(m):
    """E psi(N/2), N ~ Binomial(m, 1/2) given N >= 1."""
    N = np.arange(1, m + 1)
    weights = binom.pmf(N, m, 0.5)
    return float((weights * digamma(N / 2)).sum() / weights.sum())


@pytest.mark.parametrize(("m", "n", "r"), [(48, 16, 6), (24, 48, 6), (32, 32, 4)])
def test_flat_spectra_of_whole_stable_rank_have_the_digamma_form(m, n, r):
    e = ensemble(m, n, stable_rank=r, spectrum="flat")
    log_square = 2 * math.log(typical_spectral_norm(e, relu=True))
    linear = math.log(m / n) + digamma(n / 2) - digamma(r / 2)
    truth = linear + digamma(m / 2) - active_psi(m)
    assert log_square == pytest.approx(truth, abs=1e-11)
    found = 2 * math.log(typical_spectral_norm(e, relu=False))
    assert found == pytest.approx(linear, abs=1e-11)


def test_an_orthogonal_layer_has_no_fluctuation_to_make_up_for():
    for m, n in ((20, 12), (16, 16)):
        e = ensemble(m, n, spectrum="orthogonal")
        square = typical_spectral_norm(e, relu=False) ** 2
        assert square == pytest.approx(m / n, rel=1e-11)
    wide = ensemble(12, 20, spectrum="orthogonal")
    # A projection loses a random share: more than the 1 of the mean norm.
    assert typical_spectral_norm(wide, relu=False) ** 2 > 1.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("m", "n", "options"),
    [
        (24, 10, {"stable_rank": 2, "spectrum": "flat"}),
        (6, 12, {"stable_rank": 3.5, "spectrum": "flat"}),
        (8, 8, {"stable_rank": 2, "spectrum": "spike"}),
        (9, 14, {"stable_rank": 1.5, "spectrum": "exp"}),
        (7, 20, {"spectrum": "gaussian"}),
        (30, 20, {"stable_rank": 2, "spectrum": "mp-spike"}),
        (12, 9, {"stable_rank": 2, "spectrum": "slice"}),
        (9, 12, {"stable_rank": 3, "spectrum": "temper"}),
        (5, 6, {"profile": [3.0, 1.0, 1.0]}),
    ],
)
@pytest.mark.parametrize("relu", [True, False])
def test_the_mean_logarithm_of_the_signal_is_kept(relu, m, n, options, seed):
    e = ensemble(m, n, **options)
    size = typical_spectral_norm(e, relu=relu)
    g = torch.Generator().manual_seed(seed)
    x = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    z = e.sample(g, spectral_norm=size, num=6_000) @ x
    h = z.clamp_min(0.0) if relu else z
    squares = h.square().mean(-1) / x.square().mean()
    logs = squares[squares > 0.0].log()
    error = float(logs.std()) / math.sqrt(len(logs))
    assert abs(float(logs.mean())) <= STANDARD_ERRORS * error
    # The scale of the mean norm would be told apart.
    a1 = size**2 * e.moments.a1
    assert abs(math.log(a1 / ((2.0 if relu else 1.0) * m))) > STANDARD_ERRORS * error


def test_the_gains_of_stable_rank_set_that_scale():
    e = ensemble(24, 10, stable_rank=2.5, spectrum="flat")
    for gain, relu in (("typical", True), ("typical-linear", False)):
        W = torch.empty(24, 10, dtype=torch.float64)
        stable_rank_(W, 2.5, spectrum="flat", gain=gain, generator=torch.Generator())
        top = float(torch.linalg.matrix_norm(W, 2))
        assert top == pytest.approx(typical_spectral_norm(e, relu=relu), rel=1e-12)


@pytest.mark.parametrize("spectrum", ["mp-spike", "slice", "temper"])
def test_random_spectra_have_the_leading_order_where_rho_is_large(spectrum):
    m, n, r = 96, 80, 12.0
    e = ensemble(m, n, stable_rank=r, spectrum=spectrum)
    rho = e.participation_ratio
    a1 = typical_spectral_norm(e, relu=False) ** 2 * r
    assert a1 == pytest.approx(m * math.exp(1 / rho - 1 / n), rel=0.01)


def forget():
    for memo in (spectra._drawn, temper.drawn_log_values, typical_spectral_norm):
        memo.cache_clear()


@pytest.mark.parametrize("spectrum", ["slice", "temper"])
@pytest.mark.parametrize(("n", "r", "most"), [(3, 1.5, 3e-3), (16, 4.0, 1e-3)])
def test_drawn_singular_values_leave_the_error_that_is_stated(spectrum, n, r, most):
    e = ensemble(n, n, stable_rank=r, spectrum=spectrum)
    found = 2 * math.log(typical_spectral_norm(e, relu=False))
    # The same mean over other draws; both have the error.
    others = []
    for seed in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spectra, "_SEED", seed)
            patch.setattr(temper, "_SEED", seed)
            forget()
            others.append(2 * math.log(typical_spectral_norm(e, relu=False)))
    forget()
    error = STANDARD_ERRORS * math.sqrt(2.0) * most
    assert all(abs(found - x) <= error for x in others)
    assert len({found, *others}) == 4


def test_a_law_of_many_layers_is_worked_out_once(monkeypatch):
    asked = []

    def counting(law):
        asked.append(law.stable_rank)
        return layer_log_norm(law)

    monkeypatch.setattr(typical, "layer_log_norm", counting)
    net = nn.Sequential(*[nn.Linear(11, 11) for _ in range(12)])
    options = {"spectrum": "slice", "gain": "typical-linear"}
    for r in (2.25, 3.25, 2.25):
        apply_(net, stable_rank=r, **options, generator=torch.Generator())
    assert asked == [2.25, 3.25]


def test_deep_stacks_keep_their_typical_norm():
    # S1 2.3: widths 16-48-24-48, flat 6; without log(m/n) the drift is -1.095.
    widths, drift = [16, 48, 24, 48], 0.0
    for n, m in itertools.pairwise(widths):
        e = ensemble(m, n, stable_rank=6, spectrum="flat")
        log_s = 2 * math.log(typical_spectral_norm(e, relu=True))
        gain = digamma(3.0) - digamma(n / 2) + active_psi(m) - digamma(m / 2)
        drift += log_s + gain - math.log(m / n)
    assert drift == pytest.approx(0.0, abs=1e-11)
