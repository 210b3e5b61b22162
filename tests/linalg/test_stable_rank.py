"""with_stable_rank: targets, vectors kept, nearest matrix, what is not a law."""

import math

import pytest
import torch
from tolerances import FLOAT64

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.linalg.stable_rank import with_stable_rank

SEEDS = (1, 2, 3)
METHODS = ("auto", "optimal", "keep", "clip", "temper")
TARGET = 1e-10
SHAPES = [(6, 9), (12, 12), (30, 7), (2, 2), (40, 25)]


def matrix(shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


def stable_rank(W):
    s = torch.linalg.svdvals(W.double())
    return float((s / s[0]).square().sum())


def targets(W, method):
    now, p = stable_rank(W), min(W.shape)
    lower = [1.0, 1.0 + 1e-9, 1.0 + 0.3 * (now - 1), 0.9 * now + 0.1, now]
    higher = [now + 0.1 * (p - now), 0.5 * (now + p), p - 1e-9, p]
    return {
        "auto": lower + higher,
        "temper": lower + higher,
        "clip": [now, *higher],
    }.get(method, lower)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_the_target_is_met_and_the_singular_vectors_stay(method, shape, seed):
    W = matrix(shape, seed)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    for r in targets(W, method):
        found = with_stable_rank(W, r, method=method)
        assert stable_rank(found) == pytest.approx(r, rel=TARGET)
        image = U.T @ found @ Vh.T
        values = image.diagonal()
        assert float((image - values.diag()).abs().max()) < FLOAT64 * float(s[0]) * 10
        # Not negative and in the old order, or the vectors would be others.
        assert float(values.min()) >= -FLOAT64
        assert bool((values[1:] <= values[:-1] + FLOAT64).all())


@pytest.mark.parametrize("size", [1e-200, 1e-20, 1e200])
@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_a_matrix_does_not_matter(method, size):
    W = matrix((8, 5), 3)
    r = 4.0 if method in {"clip", "temper", "auto"} else 1.4
    found = with_stable_rank(W * size, r, method=method) / size
    plain = with_stable_rank(W, r, method=method)
    assert torch.allclose(found, plain, rtol=0, atol=FLOAT64 * 10)


def distance(W, r, start):
    """Least distance to a matrix of stable rank r, by L-BFGS over all of them.

    Every such matrix is a (u v^T + H) with H orthogonal to u and v, ||H||_F^2 = r - 1.
    """
    m, n = W.shape
    g = torch.Generator().manual_seed(start)
    x = torch.randn(m + n + m * n + 1, generator=g, dtype=torch.float64)
    x.requires_grad_(True)

    def point():
        u, v, rest = x[:m], x[m : m + n], x[m + n : -1].reshape(m, n)
        u, v = u / u.norm(), v / v.norm()
        H = rest - torch.outer(u, u @ rest)
        H = H - torch.outer(H @ v, v)
        return x[-1] * (torch.outer(u, v) + math.sqrt(r - 1) * H / H.norm())

    optimizer = torch.optim.LBFGS(
        [x], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-12
    )

    def closure():
        optimizer.zero_grad()
        loss = (point() - W).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = point().detach()
    s = torch.linalg.svdvals(found)
    # H may stick out of the spike: then the point is none of the set.
    inside = abs(float((s / s[0]).square().sum()) - r) < 1e-6
    return float((found - W).norm()) if inside else math.inf


@pytest.mark.parametrize("seed", SEEDS)
def test_lowering_gives_the_nearest_of_all_matrices_of_that_stable_rank(seed):
    W = matrix((3, 4), seed)
    r = 1.0 + 0.4 * (stable_rank(W) - 1.0)
    found = with_stable_rank(W, r)
    best = min(distance(W, r, start) for start in range(6))
    assert float((found - W).norm()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_distance_is_that_of_the_closed_form(seed):
    W = matrix((9, 7), seed)
    s = torch.linalg.svdvals(W)
    tail = float(s[1:].norm())
    for share in (0.0, 0.1, 0.7):
        r = 1.0 + share * (stable_rank(W) - 1.0)
        gamma = math.sqrt(r - 1) * float(s[0]) / tail
        nearest = float((with_stable_rank(W, r) - W).norm())
        kept = float((with_stable_rank(W, r, method="keep") - W).norm())
        assert nearest == pytest.approx(tail * (1 - gamma) / math.sqrt(r), rel=1e-9)
        assert kept == pytest.approx(tail * (1 - gamma), rel=1e-9)
        # Matrices of one stable rank form a cone: the nearest is at a right angle.
        size = float(with_stable_rank(W, r).norm())
        assert size**2 + nearest**2 == pytest.approx(float(W.norm()) ** 2, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_clipping_agrees_with_bisection(seed):
    W = matrix((12, 8), seed)
    s = torch.linalg.svdvals(W)
    r = 0.4 * stable_rank(W) + 0.6 * 8
    low, high = float(s[-1]), float(s[0])
    for _ in range(200):
        tau = (low + high) / 2
        t = s.clamp_max(tau).square()
        low, high = (tau, high) if float(t.sum() / t[0]) > r else (low, tau)
    found = torch.linalg.svdvals(with_stable_rank(W, r, method="clip"))
    assert torch.allclose(found, s.clamp_max(tau), atol=FLOAT64 * 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_tempering_raises_every_ratio_to_one_power(seed):
    W = matrix((12, 8), seed)
    s = torch.linalg.svdvals(W)
    for r in (1.5, 6.0):
        found = torch.linalg.svdvals(with_stable_rank(W, r, method="temper"))
        powers = (found / found[0]).log()[1:] / (s / s[0]).log()[1:]
        assert float(powers.std()) < 1e-9
        assert float(found[0]) == pytest.approx(float(s[0]), rel=FLOAT64)
        assert (float(powers[0]) > 1) == (r < stable_rank(W))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_doing_it_twice_is_doing_it_once(method, seed):
    W = matrix((11, 14), seed)
    r = 8.0 if method in {"clip", "temper", "auto"} else 1.7
    once = with_stable_rank(W, r, method=method)
    twice = with_stable_rank(once, r, method=method if method != "clip" else "auto")
    assert torch.allclose(once, twice, atol=1e-11)
    at_target = with_stable_rank(once, stable_rank(once), method=method)
    assert torch.equal(at_target, once)
    assert at_target is not once


@pytest.mark.parametrize("seed", SEEDS)
def test_the_farther_the_target_the_farther_the_matrix(seed):
    W = matrix((10, 10), seed)
    now = stable_rank(W)
    down = [now - f * (now - 1.0) for f in (0.2, 0.5, 0.8, 1.0)]
    up = [now + f * (10.0 - now) for f in (0.2, 0.5, 0.8, 1.0)]
    for way in (down, up):
        far = [float((with_stable_rank(W, r) - W).norm()) for r in way]
        assert far == sorted(far)
        assert far[0] > 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_transposing_and_rotating_commute_with_it(seed):
    W = matrix((6, 9), seed)
    Q = torch.linalg.qr(matrix((6, 6), seed + 50))[0]
    for r in (1.3, 5.0):
        found = with_stable_rank(W, r)
        assert torch.allclose(with_stable_rank(W.T, r).T, found, atol=1e-11)
        assert torch.allclose(with_stable_rank(Q @ W, r), Q @ found, atol=1e-11)


def test_the_norm_asked_for_stays():
    W = matrix((7, 5), 4)
    size, top = float(W.norm()), float(torch.linalg.matrix_norm(W, 2))
    for r in (1.3, 4.5):
        f = with_stable_rank(W, r, norm="keep-frobenius")
        s = with_stable_rank(W, r, norm="keep-spectral")
        assert float(f.norm()) == pytest.approx(size, rel=FLOAT64)
        assert float(torch.linalg.matrix_norm(s, 2)) == pytest.approx(top, rel=FLOAT64)
        assert stable_rank(f) == pytest.approx(r, rel=TARGET)
        assert stable_rank(s) == pytest.approx(r, rel=TARGET)


# Laws that one might take for granted and that do not hold.


def participation_ratio(W):
    t = torch.linalg.svdvals(W).square()
    return float(t.sum() ** 2 / t.square().sum())


def test_equal_stable_ranks_are_not_equal_participation_ratios():
    W = matrix((10, 10), 1)
    clipped = with_stable_rank(W, 7.0, method="clip")
    tempered = with_stable_rank(W, 7.0, method="temper")
    a, b = participation_ratio(clipped), participation_ratio(tempered)
    assert abs(a - b) > 0.05


def test_lowering_keeps_neither_norm():
    W = matrix((10, 10), 1)
    found = with_stable_rank(W, 1.5)
    assert float(found.norm()) < 0.99 * float(W.norm())
    tops = [float(torch.linalg.matrix_norm(x, 2)) for x in (found, W)]
    assert tops[0] > 1.01 * tops[1]


def test_clipping_is_not_the_nearest_way_up():
    W = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    clipped = with_stable_rank(W, 2.0, method="clip")
    nearest = with_stable_rank(W, 2.0, method="optimal")
    assert stable_rank(nearest) == pytest.approx(2.0, rel=TARGET)
    assert float((nearest - W).norm()) < 0.95 * float((clipped - W).norm())


# Special matrices.


def test_zeros_stay_zeros_and_the_rank_is_the_limit():
    W = matrix((8, 3), 1) @ matrix((3, 8), 2)
    for method in ("clip", "temper"):
        found = with_stable_rank(W, 3.0, method=method)
        s = torch.linalg.svdvals(found)
        assert torch.allclose(s[:3] / s[0], torch.ones(3, dtype=s.dtype), atol=1e-11)
        assert float(s[3]) < 1e-11 * float(s[0])
        with pytest.raises(DomainError, match=r"up to the rank, here 3, got 3\.5"):
            with_stable_rank(W, 3.5, method=method)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
def test_noise_of_the_precision_is_no_rank(dtype, seed):
    W = matrix((300, 5), seed).to(dtype) @ matrix((5, 300), seed + 50).to(dtype)
    s = torch.linalg.svdvals(W.double())
    assert float(s[5]) > 0.0
    assert float(s[4]) > 0.5 * float(s[0])
    for method in ("clip", "temper"):
        with pytest.raises(DomainError, match="up to the rank, here 5, got 20"):
            with_stable_rank(W, 20.0, method=method)


def test_small_values_above_the_noise_count():
    # A square Gaussian matrix has s_p / s_1 near 1/(2p).
    W = matrix((200, 200), 1, torch.float32)
    assert stable_rank(with_stable_rank(W, 200.0)) == pytest.approx(200.0, rel=1e-5)


def test_a_rank_one_matrix_is_at_its_only_stable_rank():
    W = torch.outer(matrix((5,), 1), matrix((4,), 2))
    assert torch.equal(with_stable_rank(W, 1), W)
    with pytest.raises(DomainError, match="here 1, got 2"):
        with_stable_rank(W, 2)


def test_an_orthogonal_matrix_comes_down_although_its_top_is_no_single_one():
    Q = torch.linalg.qr(matrix((6, 6)))[0]
    assert stable_rank(with_stable_rank(Q, 2.5)) == pytest.approx(2.5, rel=TARGET)
    W = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    tempered = with_stable_rank(W, 2.1, method="temper")
    assert stable_rank(tempered) == pytest.approx(2.1, rel=TARGET)
    with pytest.raises(DomainError, match=r"2 equal largest.*above 2, got 1\.5"):
        with_stable_rank(W, 1.5, method="temper")


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)],
)
def test_other_precisions_are_computed_in_float64_and_cast(dtype, tolerance):
    W = matrix((20, 12), 1, dtype)
    before = W.clone()
    for r in (1.5, 10.0):
        found = with_stable_rank(W, r)
        assert found.dtype == dtype
        assert stable_rank(found) == pytest.approx(r, rel=tolerance)
    assert torch.equal(W, before)
    grown = W.float().requires_grad_(True)
    assert not with_stable_rank(grown, 2.0).requires_grad


NOT_FINITE = torch.tensor([[1.0, math.nan], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("W", "r", "options", "kind", "message"),
    [
        (torch.eye(3), 0.5, {}, DomainError, r"lie in \[1, 3\].*got 0.5"),
        (torch.eye(3), 3.5, {}, DomainError, r"lie in \[1, 3\].*got 3.5"),
        (torch.eye(3), math.nan, {}, DomainError, "got nan"),
        (torch.eye(3), True, {}, ArgumentTypeError, "got True"),
        (torch.eye(3), "2", {}, ArgumentTypeError, "got '2'"),
        (torch.zeros(3, 3), 2, {}, DomainError, "got one that is zero"),
        (NOT_FINITE, 2, {}, DomainError, "got one that is not finite"),
        (torch.ones(3), 1, {}, ShapeError, r"got shape \(3,\)"),
        (torch.ones(0, 3), 1, {}, ShapeError, r"got shape \(0, 3\)"),
        (torch.ones(3, 3, dtype=torch.int64), 1, {}, ArgumentTypeError, "int64"),
        ([[1.0]], 1, {}, ArgumentTypeError, "got list"),
        (torch.eye(3), 2, {"method": "clap"}, UnknownNameError, "got 'clap'"),
        (torch.eye(3), 2, {"norm": "keep"}, UnknownNameError, "got 'keep'"),
        (torch.eye(3), 2, {"method": "clip"}, DomainError, "only raises.*here 3"),
        (
            torch.diag(torch.tensor([2.0, 1.0, 0.1])),
            2.9,
            {"method": "keep"},
            DomainError,
            "meets the first, got a target of 2.9",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(W, r, options, kind, message):
    with pytest.raises(kind, match=message):
        with_stable_rank(W, r, **options)
