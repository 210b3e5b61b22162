"""One layer against 40,000 matrices at 12 settings, three seeds, 4 standard errors.

The matrices come from a NumPy sampler of this file (QR of Gaussian matrices around
singular values written out here) and, for four settings, from the library's own.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.layer_moments.log_norms import layer_log_norm, mask_log_norm
from spectrank.linalg.layer_moments.one_layer import gram_moments, norm_moments
from spectrank.propagation.theory.depth import linear_factor, mask_factor
from spectrank.random_nets import RandomMLP

NUM = 40_000
SEEDS = (0, 1, 2)
COSINE = 0.6
# m, n, spectrum, stable rank
SETTINGS = (
    (4, 7, "flat", 3.0),
    (7, 4, "spike", 3.0),
    (3, 9, "flat", 2.5),
    (16, 2, "spike", 1.5),
    (5, 5, "orthogonal", None),
    (6, 3, "orthogonal", None),
    (4, 4, "power", 2.0),
    (3, 5, "exp", 2.5),
    (7, 5, "mp-spike", 1.8),
    (6, 9, "gaussian", None),
    (4, 4, "slice", 2.5),
    (1, 5, "spike", 1.0),
)
CASES = [(i, seed, False) for i in range(12) for seed in SEEDS]
CASES += [(i, 0, True) for i in (0, 1, 8, 10)]


@cache
def layer(m: int, n: int, spectrum: str, r: float | None) -> LayerLaw:
    net = RandomMLP([n, m], stable_rank=r, spectrum=spectrum, activation="linear")
    return net.layers[0]


def frames(rng: np.random.Generator, m: int, p: int) -> np.ndarray:
    Q, R = np.linalg.qr(rng.normal(size=(NUM, m, p)))
    return Q * np.sign(np.diagonal(R, axis1=1, axis2=2))[:, None, :]


def squares(rng: np.random.Generator, p: int, spectrum: str, r: float) -> np.ndarray:
    """Squared singular values of largest one, (p,) or (NUM, p), from their formulas."""
    if spectrum == "orthogonal":
        return np.ones(p)
    if spectrum == "flat":
        full = int(r)
        return np.array([1.0] * full + [r - full] + [0.0] * p)[:p]
    if spectrum == "spike":
        return np.array([1.0] + [(r - 1.0) / max(p - 1, 1)] * (p - 1))
    i = np.arange(p)
    if spectrum == "power":
        a = brentq(lambda a: ((i + 1.0) ** (-2 * a)).sum() - r, 0.0, 50.0, xtol=1e-14)
        return (i + 1.0) ** (-2 * a)
    if spectrum == "exp":
        a = brentq(lambda a: np.exp(-2 * a * i).sum() - r, 0.0, 50.0, xtol=1e-14)
        return np.exp(-2 * a * i)
    # slice: uniform on the simplex, kept where no value exceeds one.
    kept = np.empty((0, p - 1))
    while len(kept) < NUM:
        g = rng.exponential(size=(NUM, p - 1))
        t = (r - 1.0) * g / g.sum(1, keepdims=True)
        kept = np.concatenate([kept, t[t.max(1) <= 1.0]])
    return np.concatenate([np.ones((NUM, 1)), kept[:NUM]], axis=1)


def numpy_matrices(law: LayerLaw, seed: int) -> np.ndarray:
    rng = np.random.default_rng([20211005, seed])
    m, n = law.m, law.n
    if law.spectrum == "gaussian":
        return rng.normal(size=(NUM, m, n)) * np.sqrt(law.a1 / (m * n))
    assert law.stable_rank is not None
    assert law.spectral_norm is not None
    if law.spectrum == "mp-spike":
        u, v = frames(rng, m, 1), frames(rng, n, 1)
        H = rng.normal(size=(NUM, m, n))
        H -= u @ (u.mT @ H)
        H -= (H @ v) @ v.mT
        norms = np.linalg.norm(H, axis=(1, 2), keepdims=True)
        W = u @ v.mT + np.sqrt(law.stable_rank - 1.0) * H / norms
        return law.spectral_norm * W
    p = min(m, n)
    s = np.sqrt(squares(rng, p, law.spectrum, law.stable_rank))
    U, V = frames(rng, m, p), frames(rng, n, p)
    return law.spectral_norm * (U * s[..., None, :]) @ V.mT


def library_matrices(law: LayerLaw, seed: int) -> np.ndarray:
    net = RandomMLP(
        [law.n, law.m],
        stable_rank=None
        if law.spectrum in ("gaussian", "orthogonal")
        else law.stable_rank,
        spectrum=law.spectrum,
        activation="linear",
    )
    generator = torch.Generator().manual_seed(seed)
    return net.sample_weights(generator, num=NUM)[0].numpy()


def assert_mean(samples: np.ndarray, truth: float, what: str) -> None:
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    gap = abs(samples.mean() - truth)
    # Without randomness (orthogonal layers) only rounding is left.
    allowed = 4.0 * error + 1e-12 * max(1.0, abs(truth))
    assert gap <= allowed, (what, samples.mean(), truth, error)


def check_norms(Y: np.ndarray, gain: float, second: float, what: str) -> None:
    """Check the mean and the relative second moment of a squared norm."""
    assert_mean(Y, gain, f"E {what}")
    assert_mean(Y**2, second * gain**2, f"E {what}^2")


def check_logs(Y: np.ndarray, mean: float, variance: float, what: str) -> None:
    logs = np.log(Y[Y > 0.0])
    assert_mean(logs, mean, f"E log {what}")
    assert_mean((logs - mean) ** 2, variance, f"Var log {what}")


def check_transposed(law: LayerLaw, W: np.ndarray, seed: int) -> None:
    """The same of W^T v: the two sizes change roles."""
    v = np.random.default_rng(seed).normal(size=law.m)
    Y = (((v / np.linalg.norm(v)) @ W) ** 2).sum(1)
    factor = linear_factor(law, transposed=True)
    check_norms(Y, np.exp(factor.log_gain), np.exp(factor.log_second), "|W^T v|^2")
    if law.spectrum != "slice":
        logs = layer_log_norm(law, transposed=True)
        check_logs(Y, logs.mean, logs.variance, "|W^T v|^2")


def relu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0.0)


@pytest.mark.parametrize(("i", "seed", "library"), CASES)
def test_one_layer_agrees_with_monte_carlo(i: int, seed: int, library: bool) -> None:
    law = layer(*SETTINGS[i])
    W = (library_matrices if library else numpy_matrices)(law, seed)
    direction = np.random.default_rng(seed).normal(size=(law.n, 2))
    x, e = np.linalg.qr(direction)[0].T
    y = COSINE * x + 0.8 * e
    z, other = W @ x, W @ y

    norms = (z**2).sum(1)
    gain, second = norm_moments(law.n, law.a1, law.a1_squared, law.a2)
    check_norms(norms, gain, second, "|Wx|^2")

    masked = (relu(z) ** 2).sum(1)
    factor = linear_factor(law) + mask_factor(law.m, 0.0)
    gain, second = np.exp(factor.log_gain), np.exp(factor.log_second)
    check_norms(masked, gain, second, "|relu(Wx)|^2")

    inner = (z * other).sum(1)
    mean, variance = gram_moments(law.n, COSINE, law.a1, law.a1_squared, law.a2)
    assert_mean(inner, mean, "E Wx.Wy")
    assert_mean((inner - mean) ** 2, variance, "Var Wx.Wy")

    check_transposed(law, W, seed)

    if law.spectrum == "slice":
        return
    pre = layer_log_norm(law)
    post = pre + mask_log_norm(law.m, 0.0)
    check_logs(norms, pre.mean, pre.variance, "|Wx|^2")
    check_logs(masked, post.mean, post.variance, "|relu(Wx)|^2")
    assert_mean(np.sqrt(norms), np.exp(pre.log_half), "E |Wx|")
    assert_mean(np.sqrt(masked), np.exp(post.log_half), "E |relu(Wx)|")


@pytest.mark.parametrize("seed", SEEDS)
def test_temper_agrees_within_its_own_standard_error(seed: int) -> None:
    law = layer(6, 4, "temper", 3.0)
    assert law.a2_stderr > 0.0
    W = library_matrices(law, seed)
    Y = (W[:, :, 0] ** 2).sum(1)
    gain, second = norm_moments(law.n, law.a1, law.a1_squared, law.a2)
    assert_mean(Y, gain, "E|Wx|^2")
    error = np.hypot((Y**2).std() / np.sqrt(NUM), 2.0 * law.a2_stderr / (4 * 6))
    assert abs((Y**2).mean() - second * gain**2) <= 4.0 * error


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slope", [0.01, 0.5])
def test_a_leaky_mask_agrees_with_monte_carlo(slope: float, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(NUM, 7))
    Y = (np.where(z > 0.0, z, slope * z) ** 2).sum(1) / (z**2).sum(1)
    factor, logs = mask_factor(7, slope), mask_log_norm(7, slope)
    check_norms(Y, np.exp(factor.log_gain), np.exp(factor.log_second), "leaky")
    check_logs(Y, logs.mean, logs.variance, "leaky")
    assert_mean(np.sqrt(Y), np.exp(logs.log_half), "E sqrt leaky")
