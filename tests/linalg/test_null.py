"""Random twins: uniform permutations, and singular values of Gaussian matrices."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.linalg import null
from spectrank.linalg.null import (
    entry_moments,
    gaussian_singular_values,
    null_spectrum,
    permuted,
    wasserstein,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("piece", [1 << 18, 1000])
def test_a_permutation_keeps_the_entries_and_nothing_else(monkeypatch, dtype, piece):
    monkeypatch.setattr(null, "_LARGE", piece)
    monkeypatch.setattr(null, "_PIECE", piece)
    W = torch.randn(70, 55, generator=seeded(0)).to(dtype)
    before, state = W.double(), torch.get_rng_state()
    twin = permuted(W.T, generator=seeded(1))
    assert torch.equal(W.double(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (twin.shape, twin.dtype) == ((55, 70), dtype)
    x = twin.double()
    assert torch.equal(x.flatten().sort().values, before.flatten().sort().values)
    assert float((x == before.T).double().mean()) < 0.1
    assert torch.equal(x, permuted(W.T, generator=seeded(1)).double())
    assert not torch.equal(x, permuted(W.T, generator=seeded(2)).double())


@pytest.mark.parametrize(("shape", "piece"), [((2, 2), 8), ((2, 2), 2), ((1, 4), 3)])
def test_every_permutation_is_equally_likely(monkeypatch, shape, piece):
    monkeypatch.setattr(null, "_LARGE", piece)
    monkeypatch.setattr(null, "_PIECE", piece)
    W, generator, num = torch.arange(4.0).reshape(shape), seeded(3), 1500
    counts = Counter(
        tuple(permuted(W, generator=generator).flatten().tolist()) for _ in range(num)
    )
    assert len(counts) == 24
    expected = num / 24
    statistic = sum((x - expected) ** 2 / expected for x in counts.values())
    # Chi squared of 23 degrees: mean 23, standard deviation sqrt(46).
    assert statistic <= 23 + STANDARD_ERRORS * math.sqrt(46)


def test_a_large_matrix_loses_its_order_across_pieces(monkeypatch):
    monkeypatch.setattr(null, "_LARGE", 500)
    monkeypatch.setattr(null, "_PIECE", 500)
    W = torch.arange(20_000, dtype=torch.float64).reshape(200, 100)
    twin = permuted(W, generator=seeded(0)).flatten()
    # Where entries of one piece end up: everywhere, as by a uniform permutation.
    places = torch.nonzero(twin < 500).flatten().double()
    mean, stderr = 9999.5, 20_000 / math.sqrt(12 * 500)
    assert float(places.mean()) == pytest.approx(mean, abs=STANDARD_ERRORS * stderr)
    correlation = np.corrcoef(twin.numpy(), np.arange(20_000))[0, 1]
    assert abs(correlation) <= STANDARD_ERRORS / math.sqrt(20_000)


@pytest.mark.parametrize(
    ("shape", "mean", "std"),
    [((5, 12), 0.7, 1.3), ((12, 5), -0.2, 0.5), ((4, 4), 0.0, 1.0), ((1, 6), 0.4, 1.0)],
)
def test_singular_values_have_the_law_of_a_dense_gaussian_matrix(shape, mean, std):
    num, generator = 1500, seeded(0)
    ours = torch.stack(
        [
            gaussian_singular_values(shape, mean=mean, std=std, generator=generator)
            for _ in range(num)
        ]
    )
    dense = mean + std * torch.randn(
        num, *shape, dtype=torch.float64, generator=generator
    )
    theirs = torch.linalg.svdvals(dense)
    for power in (1, 2):
        a, b = ours**power, theirs**power
        stderr = ((a.var(0) + b.var(0)) / num).sqrt()
        assert bool(((a.mean(0) - b.mean(0)).abs() <= 4.0 * stderr).all())
    # Not the means alone: the whole law of the largest one.
    p = scipy.stats.ks_2samp(ours[:, 0].numpy(), theirs[:, 0].numpy()).pvalue
    assert p > 1e-4


def test_moments_of_the_draw_are_exact():
    # E sum s^2 = mn (std^2 + mean^2); E sum s^4 = mn (m + n + 1) std^4 without a mean.
    m, n, num, generator = 30, 20, 1000, seeded(5)
    squares, fourths = [], []
    for _ in range(num):
        x = gaussian_singular_values((m, n), mean=0.1, std=2.0, generator=generator)
        squares.append(float(x.square().sum()))
        y = gaussian_singular_values((m, n), generator=generator)
        fourths.append(float((y**4).sum()))
    for found, truth in ((squares, m * n * 4.01), (fourths, m * n * (m + n + 1))):
        stderr = np.std(found) / math.sqrt(num)
        assert np.mean(found) == pytest.approx(truth, abs=STANDARD_ERRORS * stderr)


def test_without_spread_a_gaussian_matrix_is_a_constant_one():
    x = gaussian_singular_values((6, 24), mean=-2.0, std=0.0, generator=seeded(0))
    assert x.tolist() == pytest.approx([24.0, 0, 0, 0, 0, 0])
    x = gaussian_singular_values((3, 3), mean=0.0, std=0.0, generator=seeded(0))
    assert x.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_moments_of_the_entries_at_every_scale(scale):
    random = np.random.default_rng(0)
    W = random.standard_normal((40, 30)) + 0.3
    mean, std = entry_moments(torch.from_numpy(W * scale))
    assert mean / scale == pytest.approx(W.mean(), rel=FLOAT64)
    assert std / scale == pytest.approx(W.std(), rel=FLOAT64)


@pytest.mark.parametrize("kind", null.NULLS)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_a_twin_keeps_what_it_promises_to_keep(kind, scale):
    W = (torch.randn(60, 40, dtype=torch.float64, generator=seeded(0)) + 0.1) * scale
    s = null_spectrum(W, kind, generator=seeded(1))
    assert s.shape == (60, 40)
    assert s.sigma.shape == s.sigma_error.shape == (40,)
    assert bool((s.sigma[:-1] >= s.sigma[1:]).all())
    assert s.route.startswith(kind)
    norm = float((W / scale).norm())
    if kind == "permuted":
        assert s.frobenius.value / scale == pytest.approx(norm, rel=1e-9)
    else:
        # 2400 independent entries: 1.4 % is one standard error of the norm.
        assert s.frobenius.value / scale == pytest.approx(norm, rel=0.06)
    total = float((s.sigma / scale).square().sum().sqrt())
    assert total == pytest.approx(s.frobenius.value / scale, rel=1e-9)
    assert s.sigma_max.value == float(s.sigma[0])


def test_one_large_entry_survives_a_permutation_and_not_a_gaussian_twin():
    W = torch.randn(80, 80, dtype=torch.float64, generator=seeded(0))
    W[3, 5] = 100.0
    assert null_spectrum(W, "permuted", generator=seeded(1)).sigma_max.value > 99.0
    assert null_spectrum(W, "gaussian", generator=seeded(1)).sigma_max.value < 40.0


@pytest.mark.parametrize("kind", null.NULLS)
def test_matrices_without_values_have_twins_with_their_status(kind):
    for W, status in (
        (torch.zeros(4, 3), "degenerate"),
        (torch.empty(0, 3), "degenerate"),
        (torch.full((4, 3), math.nan), "nonfinite"),
    ):
        assert null_spectrum(W, kind, generator=seeded(0)).status == status


def test_the_distance_is_scipys():
    a, b = torch.randn(2, 50, dtype=torch.float64, generator=seeded(0))
    truth = scipy.stats.wasserstein_distance(a.numpy(), b.numpy())
    assert wasserstein(a, b) == pytest.approx(truth, rel=FLOAT64)
    assert wasserstein(a, a.flip(0)) == 0.0


def test_nonsense_is_refused():
    with pytest.raises(ShapeError, match="sides of at least 1"):
        gaussian_singular_values((0, 3), generator=seeded(0))
    with pytest.raises(DomainError, match=r"std not negative, got 0\.0 and -1"):
        gaussian_singular_values((2, 3), std=-1.0, generator=seeded(0))
    with pytest.raises(UnknownNameError, match="a null is one of permuted, gaussian"):
        null_spectrum(torch.eye(3), "shuffled", generator=seeded(0))
    with pytest.raises(ShapeError, match="two samples of one size"):
        wasserstein(torch.ones(3), torch.ones(4))
