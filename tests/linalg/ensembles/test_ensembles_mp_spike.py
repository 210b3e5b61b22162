"""mp-spike: an exact triplet over a Gaussian bulk, its limits, wrong projections."""

import math

import pytest
import torch
from scipy.stats import binom
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import DomainError
from spectrank.linalg.ensembles import ensemble, mp_spike
from spectrank.linalg.ensembles.mp_spike import (
    largest_reliable,
    largest_sure,
    largest_typical,
)
from spectrank.linalg.haar import make_draws

SEEDS = (1, 2, 3)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def ingredients(m, n, num, seed):
    g = generator(seed)

    def normal(*shape):
        return torch.randn(num, *shape, dtype=torch.float64, generator=g)

    u, v, w, x = normal(m, 1), normal(n, 1), normal(m, 1), normal(n, 1)
    unit = [y / y.norm(dim=1, keepdim=True) for y in (u, v, w, x)]
    return *unit, normal(m, n)


def away(x):
    return torch.eye(x.shape[-2], dtype=torch.float64) - x @ x.mT


def spiked(u, v, H, r):
    c = math.sqrt(r - 1.0) / torch.linalg.matrix_norm(H)
    return u @ v.mT + c[:, None, None] * H


def true_sampler(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    return spiked(u, v, away(u) @ G @ away(v), r)


def ours(m, n, r, num, seed):
    return ensemble(m, n, stable_rank=r).sample(generator(seed), num=num)


def projected_with_other_vectors(m, n, r, num, seed):
    u, v, w, x, G = ingredients(m, n, num, seed)
    return spiked(u, v, away(w) @ G @ away(x), r)


def projected_on_one_side(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    return spiked(u, v, G @ away(v), r)


def projected_with_the_left_vector_twice(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    return spiked(u, v, away(u) @ G @ away(u), r)


def not_projected(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    return spiked(u, v, G, r)


def with_a_fixed_spike(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    u, v = u[:1].expand_as(u), v[:1].expand_as(v)
    return spiked(u, v, away(u) @ G @ away(v), r)


def with_a_positive_spike(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    u, v = u.abs(), v.abs()
    return spiked(u, v, away(u) @ G @ away(v), r)


def with_a_flat_bulk(m, n, r, num, seed):
    u, v, _, _, G = ingredients(m, n, num, seed)
    left, _, right = torch.linalg.svd(away(u) @ G @ away(v), full_matrices=False)
    return spiked(u, v, left[..., :-1] @ right[..., :-1, :], r)


MUTANTS = (
    projected_with_other_vectors,
    projected_on_one_side,
    projected_with_the_left_vector_twice,
    not_projected,
    with_a_fixed_spike,
    with_a_positive_spike,
    with_a_flat_bulk,
)


def failures(sampler, n, r, seed, num=3_000):
    """Laws broken: two exact ones of every draw, four by Monte Carlo."""
    W = sampler(n, n, r, num, seed)
    s = torch.linalg.svdvals(W)
    broken = []
    if not torch.allclose(s[:, 0], torch.ones_like(s[:, 0]), atol=1e-10):
        broken.append("spectral norm")
    if not torch.allclose(
        (s / s[:, :1]).square().sum(-1), torch.tensor(r).double(), rtol=1e-10
    ):
        broken.append("stable rank")
    M, N = n - 1, n - 1
    bulk = (r - 1.0) ** 2 * (M + N + 1) / (M * N + 2)
    fourth = 3.0 * (r**2 + 2.0 * (1.0 + bulk)) / (n * (n + 2)) ** 2
    for name, values, truth in (
        ("a2", s.pow(4).sum(-1), 1.0 + bulk),
        ("entry", W[:, 0, 0], 0.0),
        ("squared entry", W[:, 0, 1] ** 2, r / n**2),
        ("fourth power", W[:, 0, 0] ** 4, fourth),
    ):
        error = float(values.std()) / math.sqrt(num)
        if abs(float(values.mean()) - truth) > STANDARD_ERRORS * error + FLOAT64:
            broken.append(name)
    return broken


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sampler", [ours, true_sampler])
def test_a_spike_over_a_projected_bulk_obeys_every_law(sampler, seed):
    assert failures(sampler, 8, 2.0, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_projections_and_spikes_are_rejected(mutant, seed):
    assert failures(mutant, 8, 2.0, seed)


def test_golden_participation_ratios():
    # S1 2.2: 8 x 8 at r = 2 and 256 x 256 at r = 8.
    assert ensemble(8, 8, stable_rank=2).participation_ratio == (
        pytest.approx(3.09, abs=0.005)
    )
    assert ensemble(256, 256, stable_rank=8).participation_ratio == (
        pytest.approx(46.2, abs=0.05)
    )
    W = ensemble(256, 256, stable_rank=8).sample(generator(0))
    rho = float(W.norm() ** 4 / (W.T @ W).norm() ** 2)
    assert rho == pytest.approx(46.2, abs=0.2)
    # The Marchenko-Pastur limit of the table in S1 2.1, 510.55, is near at 1024.
    limit = 1.0 / (1.0 / 200**2 + (1.0 - 1.0 / 200) ** 2 * 2.0 / 1024)
    exact = ensemble(1024, 1024, stable_rank=200).participation_ratio
    assert exact == pytest.approx(limit, rel=2e-3)
    assert exact < limit


@pytest.mark.parametrize(("m", "n"), [(2, 2), (2, 50), (3, 3), (64, 20), (300, 300)])
@pytest.mark.parametrize("r", [1.0, 1.0 + 1e-9, 1.7, 2.0])
def test_up_to_two_every_draw_succeeds_and_is_exact(m, n, r):
    for seed in SEEDS:
        s = torch.linalg.svdvals(ensemble(m, n, stable_rank=r).sample(generator(seed)))
        assert float(s[0]) == pytest.approx(1.0, abs=FLOAT64)
        assert float(s.square().sum()) == pytest.approx(r, rel=FLOAT64)
        # Not only r: its excess over 1, which is the bulk alone.
        excess = float(s[1:].square().sum())
        assert excess == pytest.approx(r - 1.0, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize("seed", range(1, 20))
def test_the_smallest_bulks_lose_no_digits_to_the_projection(seed):
    # Of a 2 x 2 matrix a single number stays; it may be a thousandth of what was.
    W = ensemble(2, 2, stable_rank=1.5).sample(generator(seed), num=500)
    s = torch.linalg.svdvals(W)
    assert torch.allclose(s.square().sum(-1), torch.tensor(1.5).double(), rtol=1e-12)
    assert torch.allclose(s[:, 0], torch.ones(500).double(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("left", [1e-1, 1e-3, 1e-5])
def test_what_is_left_of_a_bulk_is_orthogonal_to_the_spike(left, dtype):
    # All but ``left`` of the matrix lies along u and v: rounding of what goes away must
    # not stay in what is kept.
    u, v, w, x, _ = (y.to(dtype) for y in ingredients(6, 5, 200, 1))
    w, x = w - u @ (u.mT @ w), x - v @ (v.mT @ x)
    H = (u + w) @ v.mT + u @ x.mT + left * w @ x.mT
    norm = mp_spike._project(H, u.squeeze(-1), v.squeeze(-1))
    assert torch.allclose(norm, torch.linalg.matrix_norm(H).double(), rtol=1e-5)
    residual = torch.cat([(u.mT @ H).flatten(1), (H @ v).flatten(1)], dim=1)
    ratio = residual.norm(dim=1) / norm
    assert float(ratio.max()) <= 8.0 * torch.finfo(dtype).eps


def test_limits_of_a_square_matrix():
    assert largest_typical(64, 64) == 17.0
    assert largest_typical(4096, 4096) == 1025.0
    assert largest_typical(1, 9) == largest_sure(9, 1) == 1.0
    assert largest_typical(3, 3) == largest_sure(3, 3) == 2.0
    for m, n in ((64, 64), (10, 512), (512, 10), (5, 6), (4096, 4096)):
        assert 2.0 <= largest_sure(m, n) <= largest_typical(m, n) <= min(m, n)
    assert largest_sure(4096, 4096) == pytest.approx(0.90 * 1025, rel=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_norm_bound_behind_the_sure_limit_fails_no_more_often_than_stated(seed):
    M, N, num = 9, 30, 6_000
    G = torch.randn(num, M, N, dtype=torch.float64, generator=generator(seed))
    top = torch.linalg.matrix_norm(G, 2)
    total = torch.linalg.matrix_norm(G)
    for t in (0.5, 1.0, 2.0):
        p = math.exp(-(t**2) / 2)
        above = int((top > math.sqrt(M) + math.sqrt(N) + t).sum())
        below = int((total < math.sqrt(M * N - 0.5) - t).sum())
        assert above <= binom.ppf(0.999, num, p)
        assert below <= binom.ppf(0.999, num, p)


@pytest.mark.parametrize(("m", "n"), [(10, 512), (64, 64), (30, 20), (400, 400)])
def test_draws_at_the_sure_limit_need_no_look_at_the_bulk(m, n, monkeypatch):
    def no_look(*_):
        raise AssertionError("the bulk was measured")

    e = ensemble(m, n, stable_rank=largest_sure(m, n))
    for seed in range(8):
        s = torch.linalg.svdvals(e.sample(generator(seed)))
        assert float(s[0]) == pytest.approx(1.0, abs=FLOAT64)
    # A margin below the limit the bound alone decides.
    r = 1.0 + 0.9 * (largest_sure(m, n) - 1.0)
    monkeypatch.setattr(mp_spike, "_largest", no_look)
    ensemble(m, n, stable_rank=r).sample(generator(0))


@pytest.mark.parametrize(("m", "n"), [(20, 20), (12, 60)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bulk_above_the_spike_is_refused_and_one_below_is_not(m, n, dtype):
    # At the typical limit both happen; the decision is checked against an SVD of
    # the same numbers.
    r = largest_typical(m, n)
    e = ensemble(m, n, stable_rank=r)
    # No draw is so close that rounding decides.
    margin = 1e-9 if dtype == torch.float64 else 1e-4
    refused = 0
    for seed in range(150):
        g = generator(seed)
        u = torch.randn(m, dtype=dtype, generator=g).double()
        v = torch.randn(n, dtype=dtype, generator=g).double()
        G = torch.randn(m, n, dtype=dtype, generator=g).double()
        u, v = (u / u.norm()).unsqueeze(1), (v / v.norm()).unsqueeze(1)
        H = away(u) @ G @ away(v)
        size = math.sqrt(r - 1.0) * float(torch.linalg.matrix_norm(H, 2) / H.norm())
        assert abs(size - 1.0) > margin
        if size > 1.0:
            refused += 1
            with pytest.raises(DomainError, match=r"bulk below its spike.*'temper'"):
                e.sample(generator(seed), dtype=dtype)
        else:
            s = torch.linalg.svdvals(e.sample(generator(seed), dtype=dtype).double())
            assert float(s[0]) == pytest.approx(1.0, abs=1e-5)
    assert 0 < refused < 150


def test_one_bad_matrix_of_a_batch_refuses_the_batch():
    e = ensemble(20, 20, stable_rank=largest_typical(20, 20))
    with pytest.raises(DomainError, match="bulk below its spike"):
        e.sample(generator(0), num=200)


@pytest.mark.parametrize("size", [0.999, 1.001, 1.0 - 1e-9, 1.0 + 1e-9])
def test_a_large_bulk_is_compared_with_the_spike_by_an_enclosure(size):
    # Built from the answer: 300 x 280 with a known norm, so no dense SVD is taken.
    draws = make_draws(generator(0), num=None, dtype=torch.float64, device=None)
    H = ensemble(300, 280, stable_rank=50, spectrum="power").law.draw(draws)
    found = mp_spike._largest(H, size, 2e-11)
    assert (found > 1.0 + 2e-11) == (size > 1.0)
    assert found == pytest.approx(size, rel=1e-2)
    if abs(size - 1.0) < 1e-6:
        assert found == pytest.approx(size, rel=1e-10)


def test_a_stable_rank_beyond_the_bulk_is_refused_before_anything_is_drawn():
    with pytest.raises(DomainError, match=r"up to 17 on 64 x 64.*got 17\.5.*'temper'"):
        ensemble(64, 64, stable_rank=17.5)
    ensemble(64, 64, stable_rank=17.0)
    assert ensemble(3, 7, stable_rank=2.0).stable_rank == 2.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("m", "n", "num"),
    [(4, 9, 20_000), (10, 128, 2_000), (32, 32, 2_000), (8, 8, 9_000)],
)
def test_draws_reach_the_reliable_limit(m, n, num, seed):
    r = largest_reliable(m, n)
    assert largest_sure(m, n) <= r <= largest_typical(m, n)
    # Of a Gaussian matrix, not by the sampler: at one in a million none of these.
    H = torch.randn(num, m - 1, n - 1, generator=generator(seed))
    ratio = torch.linalg.matrix_norm(H, 2) / torch.linalg.matrix_norm(H)
    assert int((math.sqrt(r - 1.0) * ratio > 1.0 + 1e-6).sum()) == 0
    # And it is no mere caution: a tenth beyond the edge draws are refused.
    beyond = largest_typical(m, n) * 1.1
    if min(m, n) > 8:
        assert int((math.sqrt(beyond - 1.0) * ratio > 1.0).sum()) > 0
