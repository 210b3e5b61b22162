"""The scale of noise: planted scales, planted spikes, and no noise at all."""

import math

import pytest
import torch
from matrices import with_spectrum
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import ShapeError, UnknownNameError
from spectrank.linalg.marchenko_pastur import MarchenkoPastur
from spectrank.linalg.noise import noise_scale, noise_threshold

METHODS = ("bulk", "median", "entries")


def gaussian(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", [(300, 150), (120, 120), (60, 400)])
def test_the_scale_of_noise_is_found_by_every_fit(shape):
    found = {method: [] for method in METHODS}
    for seed in range(12):
        sigma = torch.linalg.svdvals(0.3 * gaussian(shape, seed))
        for method in METHODS:
            found[method].append(noise_scale(sigma, shape, method))
    spread = {method: float(torch.tensor(x).std()) for method, x in found.items()}
    for method, x in found.items():
        stderr = spread[method] / math.sqrt(len(x))
        # The law is a limit: the median is off by a fraction of 1/k.
        room = STANDARD_ERRORS * stderr + (0.15 / min(shape)) * (method == "median")
        assert sum(x) / len(x) == pytest.approx(0.3, abs=room), method
    # The fit of the bulk is as sharp as all entries together, one quantile is not.
    sharp = 0.3 / math.sqrt(2 * shape[0] * shape[1])
    assert spread["bulk"] < 2.0 * sharp
    assert spread["median"] > 1.5 * spread["bulk"]


@pytest.mark.parametrize("num", [1, 20, 60])
def test_spikes_move_the_entries_most_the_median_less_and_the_bulk_not(num):
    shape = (400, 200)
    spikes = torch.zeros(200, dtype=torch.float64)
    spikes[:num] = 200.0
    W = gaussian(shape, 0) + with_spectrum(spikes, *shape, seed=1)
    sigma = torch.linalg.svdvals(W)
    error = {m: abs(noise_scale(sigma, shape, m) - 1.0) for m in METHODS}
    # sqrt(2 / mn) / 2 is one standard error of the scale.
    assert error["bulk"] < STANDARD_ERRORS / math.sqrt(2 * 400 * 200)
    assert error["entries"] > 0.2
    if num > 1:
        assert error["bulk"] < error["median"] < error["entries"]


def test_spikes_do_not_mask_each_other():
    # Together they lift the root mean square so far that none of them is above it.
    shape = (150, 100)
    spikes = torch.zeros(100, dtype=torch.float64)
    spikes[:40] = 60.0
    W = gaussian(shape, 2) + with_spectrum(spikes, *shape, seed=3)
    sigma = torch.linalg.svdvals(W)
    masked = noise_scale(sigma, shape, "entries") * noise_threshold(shape)
    assert float(sigma[0]) < masked
    assert noise_scale(sigma, shape) == pytest.approx(1.0, abs=0.03)


def test_the_fit_of_the_bulk_is_a_fixed_point_by_hand():
    # 4 is above the noise that 2, 1, 1 leave in 5 x 3 dimensions, sqrt(6 / 15).
    sigma = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    assert noise_scale(sigma, (4, 6)) == pytest.approx(math.sqrt(0.4), rel=FLOAT64)
    assert noise_scale(sigma, (4, 6), "entries") == pytest.approx(math.sqrt(22 / 24))
    truth = 1.5 / math.sqrt(6.0 * float(MarchenkoPastur(4 / 6).quantile(0.5)))
    assert noise_scale(sigma, (4, 6), "median") == pytest.approx(truth, rel=FLOAT64)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_every_fit_follows_the_scale(scale):
    sigma = torch.linalg.svdvals(gaussian((30, 20), 4))
    for method in METHODS:
        truth = noise_scale(sigma, (30, 20), method)
        found = noise_scale(sigma * scale, (30, 20), method) / scale
        assert found == pytest.approx(truth, rel=FLOAT64)


def test_a_spectrum_without_a_bulk_has_no_bulk_fit():
    sigma = 2.0 ** -torch.arange(40, dtype=torch.float64)
    assert noise_scale(sigma, (80, 40)) == math.inf
    assert noise_scale(sigma, (80, 40), "median") < 1e-5


def test_zeros_have_scale_zero():
    for method in METHODS:
        assert noise_scale(torch.zeros(3).double(), (5, 3), method) == 0.0


@pytest.mark.parametrize("level", [0.5, 0.05])
def test_noise_exceeds_the_threshold_with_its_probability(level):
    num, shape = 4000, (40, 25)
    generator = torch.Generator().manual_seed(5)
    W = torch.randn(num, *shape, dtype=torch.float64, generator=generator)
    top = torch.linalg.eigvalsh(W.mT @ W)[:, -1].sqrt()
    above = float((top > noise_threshold(shape, level)).double().mean())
    stderr = math.sqrt(level * (1.0 - level) / num)
    assert above == pytest.approx(level, abs=STANDARD_ERRORS * stderr)


def test_nonsense_is_refused():
    with pytest.raises(ShapeError, match="has 3 singular values, got"):
        noise_scale(torch.ones(4), (5, 3))
    with pytest.raises(UnknownNameError, match="one of bulk, median, entries"):
        noise_scale(torch.ones(3), (5, 3), "mean")
