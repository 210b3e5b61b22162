"""Values and standard errors against plain sums and the jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from spectrank.propagation.measurement.estimate import Estimate
from spectrank.propagation.measurement.estimates import Angles, Gains

Statistic = Callable[[np.ndarray], float]
# Clusters (C, D) of logarithms, some of them dead.
STATISTICS: dict[str, tuple[Callable[[Gains], Estimate], Statistic]] = {
    "mean": (Gains.mean, lambda x: float(np.exp(x).mean())),
    "root": (Gains.root_mean, lambda x: float(np.exp(0.5 * x).mean())),
    "second": (
        Gains.second_moment,
        lambda x: float(np.exp(2 * x).mean() / np.exp(x).mean() ** 2),
    ),
    "log mean": (Gains.log_mean, lambda x: float(x[np.isfinite(x)].mean())),
    "log variance": (Gains.log_variance, lambda x: float(x[np.isfinite(x)].var())),
}


def draws(dead: bool) -> np.ndarray:
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(300, 1))
    # Sorted: the first batch, which sets the scale, is far from the mean of all.
    shared = np.sort(shared, axis=0)
    logs = 0.5 * shared + 0.3 * rng.normal(size=(300, 4)) - 1.0
    if dead:
        logs[rng.random(logs.shape) < 0.6 * rng.random((300, 1))] = -np.inf
    return logs


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("name", list(STATISTICS))
def test_a_statistic_and_its_error_are_the_plain_ones_over_clusters(
    name: str, dead: bool
) -> None:
    logs = draws(dead)
    method, plain = STATISTICS[name]
    gains = Gains()
    for part in np.split(logs, [2, 70, 140]):
        gains.update(torch.from_numpy(part))
    found = method(gains)
    factor = 300 / 299 if name == "log variance" else 1.0
    assert found.value == pytest.approx(factor * plain(logs), rel=1e-12)
    assert found.num_samples == 300
    # The jackknife leaves out one cluster at a time; it knows nothing of derivatives.
    left = np.array([plain(np.delete(logs, i, axis=0)) for i in range(300)])
    jackknife = math.sqrt(299 / 300 * ((left - left.mean()) ** 2).sum())
    assert found.standard_error == pytest.approx(jackknife, rel=0.03)
    if dead and name.startswith("log"):
        assert found.reason is not None
        assert "% of draws" in found.reason


@pytest.mark.parametrize("shift", [-460.0, 0.0, 460.0])
def test_gains_far_from_one_keep_their_digits(shift: float) -> None:
    logs = draws(dead=False)
    gains, moved = Gains(), Gains()
    gains.update(torch.from_numpy(logs))
    moved.update(torch.from_numpy(logs + shift))
    assert moved.second_moment().value == pytest.approx(
        gains.second_moment().value, rel=1e-10
    )
    assert moved.log_variance().value == pytest.approx(
        gains.log_variance().value, rel=1e-9
    )
    log_value = moved.mean().log_value
    assert log_value is not None
    assert log_value - shift == pytest.approx(math.log(gains.mean().value), rel=1e-9)


def test_nothing_that_arrives_is_no_number() -> None:
    gains = Gains()
    gains.update(torch.full((5, 2), -math.inf))
    assert gains.mean().value == 0.0
    for method in (Gains.second_moment, Gains.log_mean, Gains.log_variance):
        found = method(gains)
        assert math.isnan(found.value)
        # Zeros of float64 do not tell which of the two it is.
        assert found.reason is not None
        assert "nothing arrives, or amplitudes fall below the range" in found.reason


def test_few_draws_of_a_heavy_tail_are_not_trusted() -> None:
    rng = np.random.default_rng(5)
    light, heavy = Gains(), Gains()
    light.update(torch.from_numpy(0.3 * rng.normal(size=(400, 1))))
    heavy.update(torch.from_numpy(3.0 * rng.normal(size=(400, 1))))
    assert light.mean().trusted
    assert light.second_moment().trusted
    assert not heavy.mean().trusted
    assert not heavy.second_moment().trusted
    assert heavy.log_variance().trusted


def test_angles_are_means_over_pairs_without_a_zero() -> None:
    rng = np.random.default_rng(8)
    u, v = rng.normal(size=(2, 200, 6)) * rng.exponential(size=(2, 200, 1))
    u[0] = 0.0
    dots, uu, vv = (u * v).sum(1), (u * u).sum(1), (v * v).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = dots / np.sqrt(uu * vv)
        logs = np.log(uu), np.log(vv)
    angles = Angles()
    angles.update(
        *(
            torch.from_numpy(np.nan_to_num(x, neginf=-np.inf))[:, None]
            for x in (cosines, *logs)
        )
    )
    assert angles.mean().value == pytest.approx(cosines[1:].mean(), rel=1e-12)
    found = angles.annealed_square()
    plain = (dots**2).mean() / (uu * vv).mean()
    assert found.value == pytest.approx(plain, rel=1e-12)
    left = [
        (np.delete(dots, i) ** 2).mean() / np.delete(uu * vv, i).mean()
        for i in range(200)
    ]
    jackknife = math.sqrt(199 / 200 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert found.standard_error == pytest.approx(jackknife, rel=0.1)
