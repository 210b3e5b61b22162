"""The enclosure: identities behind the upper end, its failures, its false friends."""

import math

import mpmath
import numpy as np
import pytest
import torch
from matrices import SPECTRA, named_spectrum, with_spectrum
from scipy.linalg import eigvalsh_tridiagonal
from scipy.stats import beta, binom
from tolerances import FLOAT64, RECURRENCE

from spectrank.linalg.lanczos import component_bound, lanczos, upper_root


def run_on_diagonal(sigma, start, *, steps, failure_probability=1e-9, rtol=1e-300):
    """Lanczos on M = diag(sigma^2); a Haar start makes the diagonal no restriction."""
    squares = sigma.square()
    return lanczos(
        lambda v: squares * v,
        start,
        rtol=rtol,
        failure_probability=failure_probability,
        max_steps=steps,
        min_steps=steps,
    )


def gaussian(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator)


def explicit_lanczos(squares, v1, steps):
    """Textbook Lanczos in 60 digits: alphas, betas and the next vector."""
    mpmath.mp.dps = 60
    d = [mpmath.mpf(float(x)) for x in squares]
    v = [mpmath.mpf(float(x)) for x in v1]
    norm = mpmath.sqrt(mpmath.fsum(x * x for x in v))
    v = [x / norm for x in v]
    before, beta_before = [mpmath.mpf(0)] * len(d), mpmath.mpf(0)
    alphas, betas = [], []
    for _ in range(steps):
        w = [a * x for a, x in zip(d, v, strict=True)]
        alpha = mpmath.fsum(a * b for a, b in zip(w, v, strict=True))
        w = [
            x - alpha * y - beta_before * z
            for x, y, z in zip(w, v, before, strict=True)
        ]
        size = mpmath.sqrt(mpmath.fsum(x * x for x in w))
        alphas.append(alpha)
        betas.append(size)
        before, v, beta_before = v, [x / size for x in w], size
    return alphas, betas, v


def mp_ritz(alphas, betas):
    T = mpmath.matrix(len(alphas))
    for j, alpha in enumerate(alphas):
        T[j, j] = alpha
        if j:
            T[j, j - 1] = T[j - 1, j] = betas[j - 1]
    return sorted(mpmath.eigsy(T, eigvals_only=True))


@pytest.mark.parametrize("n", [2, 3, 100, 4096])
@pytest.mark.parametrize("p", [0.5, 1e-2, 1e-9])
def test_component_bound_is_the_quantile_of_a_beta_distribution(n, p):
    c = component_bound(n, p)
    assert beta(0.5, (n - 1) / 2).cdf(c * c) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_unit_vector_falls_below_the_component_bound_as_often_as_stated(seed):
    n, count, p = 100, 20_000, 0.1
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(count, n, dtype=torch.float64, generator=generator)
    component = v[:, 0].abs() / torch.linalg.vector_norm(v, dim=1)
    misses = int((component < component_bound(n, p)).sum())
    assert abs(misses - count * p) <= 4 * math.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("steps", [3, 7, 12])
def test_the_polynomial_identity_behind_the_upper_end_holds(steps):
    # p_k(s1^2) (x1 . v1) = prod beta (x1 . v_{k+1}), in 60 digits.
    sigma = named_spectrum("quarter-circle", 40)
    start = gaussian(40, 5)
    alphas, betas, after = explicit_lanczos(sigma.square(), start, steps)
    ritz = mp_ritz(alphas, betas)
    top = mpmath.mpf(float(sigma[0])) ** 2
    first = mpmath.mpf(float(start[0])) / mpmath.sqrt(
        mpmath.fsum(mpmath.mpf(float(x)) ** 2 for x in start)
    )
    left = mpmath.fprod(top - theta for theta in ritz) * first
    right = mpmath.fprod(betas) * after[0]
    assert abs(left / right - 1) < 1e-30


@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("name", ["quarter-circle", "gap-free", "power"])
def test_theta_and_root_agree_with_sixty_digits(name, steps):
    sigma, start = named_spectrum(name, 60), gaussian(60, 3)
    run = run_on_diagonal(sigma, start, steps=steps)
    alphas, betas, _ = explicit_lanczos(sigma.square(), start, steps)
    ritz = mp_ritz(alphas, betas)
    assert run.theta == pytest.approx(float(ritz[-1]), rel=RECURRENCE)
    log_target = mpmath.fsum(mpmath.log(b) for b in betas) - math.log(
        component_bound(60, 1e-9)
    )

    def log_product(x):
        return mpmath.fsum(mpmath.log(x - theta) for theta in ritz)

    # Not too low, but for rounding; and not too high, where the gap can be resolved.
    assert log_product(mpmath.mpf(run.root) * (1 + mpmath.mpf(10) ** -14)) > log_target
    gap = run.root - run.theta
    if gap > 1e-9:
        assert log_product(run.theta + 0.999 * mpmath.mpf(gap)) < log_target
    else:
        assert name == "power"
        assert steps == 25


def test_the_upper_end_is_sharp_for_a_start_with_exactly_the_assumed_component():
    # A start that hides x1 to the last: the polynomial bound is nearly attained, so
    # assuming twice the component must miss. This is what a wrong constant does.
    n = 200
    sigma = torch.cat([torch.ones(1), torch.linspace(0.3, 0.0, n - 1)]).double()
    c = component_bound(n, 1e-6)
    start = gaussian(n, 7)
    start[0] = 0.0
    start /= torch.linalg.vector_norm(start)
    start = math.sqrt(1.0 - c * c) * start
    start[0] = c
    squares = sigma.square()
    worst = math.inf
    for steps in range(3, 9):
        V, betas, v = [start], [], start
        alphas = []
        for _ in range(steps):
            w = squares * v
            alphas.append(float(w @ v))
            for u in V + V:
                w = w - (w @ u) * u
            betas.append(float(w.norm()))
            v = w / w.norm()
            V.append(v)
        ritz = eigvalsh_tridiagonal(np.array(alphas), np.array(betas[:-1]))
        log_betas = float(np.log(betas).sum())
        held = upper_root(ritz, log_betas, c)
        assert held >= 1.0 - 1e-12
        worst = min(worst, upper_root(ritz, log_betas, 2.0 * c))
    assert worst < 1.0


def cases():
    """10,000 random cases: spectrum, size and number of steps."""
    rng = np.random.default_rng(20240229)
    for seed in range(10_000):
        name = SPECTRA[seed % len(SPECTRA)]
        yield name, int(rng.integers(100, 180)), int(rng.integers(3, 31)), seed


def test_ten_thousand_enclosures_hold_and_fail_no_more_often_than_stated():
    inflated = (0.5, 0.1, 0.01)
    misses, counts = dict.fromkeys(inflated, 0), dict.fromkeys(inflated, 0)
    for name, n, steps, seed in cases():
        sigma = named_spectrum(name, n)
        run = run_on_diagonal(sigma, gaussian(n, seed), steps=steps)
        rounding = 16 * (run.num_steps + 4) * 2.3e-16
        assert run.theta <= 1.0 + rounding, (name, n, steps, seed)
        assert run.root >= 1.0 - rounding, (name, n, steps, seed)
        p = inflated[seed // len(SPECTRA) % 3]
        counts[p] += 1
        again = run_on_diagonal(
            sigma, gaussian(n, seed), steps=steps, failure_probability=p
        )
        misses[p] += again.root < 1.0 - rounding
    for p, count in counts.items():
        assert count > 3_000
        assert misses[p] <= binom.ppf(0.999, count, p), (p, misses[p], count)
    # The test has teeth only if inflated probabilities do miss.
    assert misses[0.5] > 0


@pytest.mark.parametrize("name", SPECTRA)
def test_a_converged_run_encloses_the_largest_singular_value(name):
    sigma = named_spectrum(name, 300)
    W = with_spectrum(sigma, 400, 300, seed=4)
    gram = W.T @ W
    run = lanczos(
        lambda v: gram @ v,
        gaussian(300, 1),
        rtol=1e-6,
        failure_probability=1e-9,
        max_steps=280,
    )
    assert run.converged
    assert math.sqrt(run.theta) <= 1.0 + 1e-13
    assert 1.0 - 1e-13 <= math.sqrt(run.root) <= (1.0 + 1e-6) ** 2


@pytest.mark.parametrize("name", SPECTRA)
def test_the_ritz_vector_has_the_ritz_value(name):
    # Lost orthogonality shows as a Ritz value that its own vector denies.
    squares = named_spectrum(name, 300).square()
    run = run_on_diagonal(squares.sqrt(), gaussian(300, 6), steps=120)
    y = run.vector / run.vector.norm()
    assert run.theta == pytest.approx(float(y @ (squares * y)), rel=FLOAT64)
    assert run.theta <= 1.0 + FLOAT64


def test_an_invariant_subspace_ends_the_run():
    sigma = torch.zeros(120, dtype=torch.float64)
    sigma[0] = 1.0
    run = lanczos(
        lambda v: sigma * v,
        gaussian(120, 2),
        rtol=1e-6,
        failure_probability=1e-9,
        max_steps=100,
    )
    assert run.converged
    assert run.num_steps <= 4
    assert run.theta == pytest.approx(1.0, abs=1e-13)
    assert 1.0 <= run.root <= 1.0 + 2e-6


def test_an_invariant_subspace_is_not_taken_for_the_whole_space():
    # x1 holds 1e-8 of the start, more than assumed, but its trace in the residual is
    # below rounding: the upper end must still cover it.
    d = torch.ones(100, dtype=torch.float64)
    d[0] = 1.0 + 1e-8
    start = gaussian(100, 3)
    start[0] = 0.0
    start /= torch.linalg.vector_norm(start)
    start[0] = 1e-8
    assert component_bound(100, 1e-9) < 1e-8
    run = lanczos(
        lambda v: d * v, start, rtol=1e-4, failure_probability=1e-9, max_steps=50
    )
    assert run.converged
    assert run.root >= 1.0 + 1e-8


def test_the_run_depends_on_the_start_and_leaves_the_global_generator_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    sigma = named_spectrum("gap-free", 150)
    a = run_on_diagonal(sigma, gaussian(150, 1), steps=10)
    b = run_on_diagonal(sigma, gaussian(150, 1), steps=10)
    c = run_on_diagonal(sigma, gaussian(150, 2), steps=10)
    assert (a.theta, a.root) == (b.theta, b.root)
    assert a.theta != c.theta
    assert torch.equal(before, torch.get_rng_state())
