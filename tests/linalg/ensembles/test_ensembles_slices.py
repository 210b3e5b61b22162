"""The slice sampler is uniform: rejection sampling, exact moments, planted mistakes."""

import functools
import math
from fractions import Fraction

import pytest
import torch
from scipy.optimize import brentq
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.linalg.ensembles import ensemble
from spectrank.linalg.ensembles.slices import draw_slice, slice_a2
from spectrank.linalg.haar import make_draws

NUM = 4_000
SEEDS = (1, 2, 3)
CASES = ((3, 1.4), (3, 2.2), (4, 2.0), (5, 3.3), (6, 5.2), (7, 3.5))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def true_sampler(p, r, seed):
    draws = make_draws(generator(seed), num=NUM, dtype=torch.float64, device=None)
    return draw_slice(p, r, draws)


@functools.cache
def by_rejection(p, r, seed, num=60_000):
    """The oracle: q - 1 uniform numbers, kept where the last one fits in [0, 1]."""
    q, g = p - 1, generator(1_000 + seed)
    t = torch.rand(num, q - 1, dtype=torch.float64, generator=g)
    last = r - 1.0 - t.sum(-1, keepdim=True)
    t = torch.cat([t, last], dim=-1)[((last >= 0.0) & (last <= 1.0)).squeeze(-1)]
    ones = torch.ones(len(t), 1, dtype=torch.float64)
    return torch.cat([ones, t.sort(-1, descending=True)[0]], dim=-1)


def statistics(t):
    rest = t[:, 1:]
    yield "first", t[:, 0]
    yield "sum of squares", t.square().sum(-1)
    yield "sum of cubes", t.pow(3).sum(-1)
    yield "largest", rest[:, 0]
    yield "smallest", rest[:, -1]
    yield "product of ends", rest[:, 0] * rest[:, -1]
    for level in (0.1, 0.5, 0.9):
        yield f"share below {level}", (rest < level).double().mean(-1)


def failures(sampler, p, r, seed):
    drawn, oracle = sampler(p, r, seed), by_rejection(p, r, seed)
    broken = []
    for (name, x), (_, y) in zip(statistics(drawn), statistics(oracle), strict=True):
        error = math.hypot(
            float(x.std()) / math.sqrt(len(x)), float(y.std()) / math.sqrt(len(y))
        )
        if abs(float(x.mean() - y.mean())) > STANDARD_ERRORS * error + FLOAT64:
            broken.append(name)
    if not torch.allclose(drawn.sum(-1), torch.tensor(r, dtype=torch.float64)):
        broken.append("sum")
    return broken


def sweeps(
    num_sweeps=50,
    *,
    first=1,
    low=lambda total: (total - 1.0).clamp_min(0.0),
    high=lambda total: total.clamp_max(1.0),
    shuffled=True,
    shape=lambda u: u,
):
    """A pairwise sampler written apart from ours, with one place to go wrong."""

    def sampler(p, r, seed):
        g = generator(seed)
        t = torch.full((NUM, p), (r - 1.0) / (p - 1), dtype=torch.float64)
        t[:, 0] = 1.0
        for _ in range(num_sweeps):
            if shuffled:
                order = torch.rand(NUM, p - first, generator=g).argsort(-1) + first
            else:
                order = torch.arange(first, p).expand(NUM, -1)
            half = (p - first) // 2
            i, j = order[:, :half], order[:, half : 2 * half]
            total = t.gather(1, i) + t.gather(1, j)
            u = shape(torch.rand(NUM, half, dtype=torch.float64, generator=g))
            new = low(total) + u * (high(total) - low(total))
            t = t.scatter(1, i, new).scatter(1, j, total - new)
        return t.sort(-1, descending=True)[0]

    return sampler


MUTANTS = {
    "too few sweeps": sweeps(2),
    "t_1 is paired": sweeps(first=0),
    "interval starts at 0": sweeps(low=torch.zeros_like),
    "interval ends at 1": sweeps(high=torch.ones_like),
    "half the interval": sweeps(shape=lambda u: 0.25 + 0.5 * u),
    "not uniform": sweeps(shape=lambda u: u.square()),
    "always the same pairs": sweeps(shuffled=False),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("p", "r"), CASES)
def test_the_sampler_agrees_with_rejection(p, r, seed):
    assert failures(true_sampler, p, r, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_samplers_that_are_not_uniform_are_rejected(mutant, seed):
    assert failures(MUTANTS[mutant], 5, 3.3, seed) or failures(
        MUTANTS[mutant], 7, 3.5, seed
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pairwise_sampler_of_the_mutants_is_itself_right(seed):
    assert failures(sweeps(), 5, 3.3, seed) == []


def irwin_hall(n, x):
    """Density of the sum of n uniform numbers, in rational arithmetic."""
    total = Fraction(0)
    for k in range(math.floor(x) + 1):
        total += (-1) ** k * math.comb(n, k) * (x - k) ** (n - 1)
    return total / math.factorial(n - 1)


def exact_second_moment(q, x):
    """E t^2 by Fractions: (int_0^1 t^2 f_{q-1}(x - t) dt) / f_q(x), term by term."""
    total = Fraction(0)
    for k in range(math.floor(x) + 1):
        # int t^2 (x - k - t)_+^(q-2) dt over [0, min(1, x - k)], by parts.
        y, m = x - k, q - 2
        top = min(Fraction(1), y)

        def primitive(t, y=y, m=m):
            u = y - t
            return -(
                t**2 * u ** (m + 1) / (m + 1)
                + 2 * t * u ** (m + 2) / ((m + 1) * (m + 2))
                + 2 * u ** (m + 3) / ((m + 1) * (m + 2) * (m + 3))
            )

        term = primitive(top) - primitive(Fraction(0))
        total += (-1) ** k * math.comb(q - 1, k) * term
    return total / math.factorial(q - 2) / irwin_hall(q, x)


@pytest.mark.parametrize(
    ("p", "r"),
    [
        (3, "1.25"),
        (3, "2"),
        (3, "2.75"),
        (4, "2"),
        (5, "4.5"),
        (8, "2.5"),
        (8, "7.999"),
        (33, "1.001"),
        (33, "17"),
        (65, "12.5"),
        (129, "65"),
        (129, "100.25"),
    ],
)
def test_the_second_moment_agrees_with_rational_arithmetic(p, r):
    truth = 1 + (p - 1) * exact_second_moment(p - 1, Fraction(r) - 1)
    assert slice_a2(p, float(r)) == pytest.approx(float(truth), rel=1e-11)


def test_the_second_moment_of_two_values_is_uniform():
    # q = 2, x <= 1: t uniform on [0, x], so E t^2 = x^2 / 3.
    assert slice_a2(3, 1.6) == pytest.approx(1.0 + 2.0 * 0.36 / 3.0, rel=FLOAT64)


@pytest.mark.parametrize("p", [1, 2, 3, 10])
def test_ends_are_exact(p):
    assert slice_a2(p, 1.0) == 1.0
    assert slice_a2(p, float(p)) == pytest.approx(p, rel=FLOAT64)
    assert slice_a2(2, 1.5) == 1.25


def truncated_exponential_a2(p, r):
    """S1 2.1: what the law of one value tends to as p grows."""
    mu = (r - 1.0) / (p - 1)

    def mean(k):
        return 1.0 / k - 1.0 / math.expm1(k)

    if abs(mu - 0.5) < 1e-12:
        return 1.0 + (p - 1) / 3.0
    sign = 1.0 if mu < 0.5 else -1.0
    k = brentq(lambda k: mean(k) - mu, sign * 1e-6, sign * 600.0)
    e = math.exp(-k)
    second = (2.0 / k**2 - e * (1.0 + 2.0 / k + 2.0 / k**2)) / (1.0 - e)
    return 1.0 + (p - 1) * second


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.25, 0.5, 0.75, 0.95])
def test_the_truncated_exponential_is_the_limit_at_rate_one_over_p(fraction):
    gaps = []
    for p in (65, 257, 1025):
        r = 1.0 + fraction * (p - 1)
        gaps.append(slice_a2(p, r) / truncated_exponential_a2(p, r) - 1.0)
    assert abs(gaps[-1]) < 1.0 / 1025
    # Few small values reach the rate later.
    if fraction >= 0.25:
        assert gaps[0] / gaps[1] == pytest.approx(257 / 65, rel=0.1)
        assert gaps[1] / gaps[2] == pytest.approx(1025 / 257, rel=0.03)


@pytest.mark.parametrize("p", [257, 4096])
def test_reflection_maps_one_slice_onto_another(p):
    # t -> 1 - t turns the sum x of q values into q - x; near x = q / 2 both sides
    # come from different sums.
    q, x = p - 1, (p - 1) / 2 - 0.75
    direct = slice_a2(p, 1.0 + x) - 1.0
    reflected = slice_a2(p, 1.0 + q - x) - 1.0
    assert reflected == pytest.approx(q - 2.0 * x + direct, rel=FLOAT64)
    # By symmetry the middle has the mean 1/2 exactly, and a smooth second moment.
    middle = slice_a2(p, 1.0 + q / 2) - 1.0
    below, above = (slice_a2(p, 1.0 + q / 2 + d) - 1.0 for d in (-1e-7, 1e-7))
    assert middle == pytest.approx((below + above) / 2, rel=1e-10)


@pytest.mark.parametrize(
    ("r", "rho"), [(8, 25.4), (16, 34.8), (32, 47.7), (48, 58.9), (60, 63.7)]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_golden_participation_ratios_of_sampled_slices(r, rho, seed):
    # S1 2.1, p = 64, printed to three digits: means of the ratio, not ratios of means.
    draws = make_draws(generator(seed), num=400, dtype=torch.float64, device=None)
    values = r**2 / draw_slice(64, float(r), draws).square().sum(-1)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - rho) <= STANDARD_ERRORS * error + 0.05
    assert ensemble(64, 64, stable_rank=r, spectrum="slice").participation_ratio == (
        pytest.approx(rho, rel=5e-3)
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("r", [1.5, 100.0, 512.0, 1020.0])
def test_fifty_sweeps_mix_a_large_slice_too(r, seed):
    draws = make_draws(generator(seed), num=20, dtype=torch.float64, device=None)
    t = draw_slice(1024, r, draws)
    values = t.square().sum(-1)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - slice_a2(1024, r)) <= STANDARD_ERRORS * error
    assert torch.allclose(t.sum(-1), torch.tensor(r, dtype=torch.float64), rtol=FLOAT64)
    assert float(t.min()) >= 0.0
    assert float(t.max()) <= 1.0


@pytest.mark.parametrize(("p", "r"), [(1, 1.0), (2, 1.0), (2, 1.3), (2, 2.0), (5, 5.0)])
def test_slices_of_one_point_are_that_point(p, r):
    t = true_sampler(p, r, 1)
    rest = (r - 1.0) / max(p - 1, 1)
    expected = torch.tensor([1.0] + [rest] * (p - 1), dtype=torch.float64)
    assert torch.equal(t, expected.expand(NUM, p))
