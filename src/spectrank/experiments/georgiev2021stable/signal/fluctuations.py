r"""Means depend on the stable rank, fluctuations on the participation ratio.

At a fixed spectral norm sigma one ReLU layer multiplies the mean of |h|^2 by
sigma^2 sr / (2 n), and its relative second moment by

    F = (1 + 2 / rho) n / (n + 2) (m + 5) / (m + 2),

whatever else the spectrum does. ``flat`` has rho = sr, ``spike`` a rho several times
that; so the same rho at two stable ranks, and the same stable rank at two rho, tell
one law from the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from spectrank.experiments.georgiev2021stable.estimates import slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.networks import (
    Point,
    spectral_mean_signal,
)
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal import laws, spectra
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.observables import (
    MOMENTS,
    relative_second_moments,
)
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.random_nets import RandomMLP

_WIDTH = 48
_RATIOS = (3.0, 5.0, 8.0, 12.0)
_SHARED = 5.0
_AXES = Axes(
    "1 / participation ratio",
    "relative second moment of |h|^2",
    "relative_second_moment",
)


@final
@dataclass(frozen=True)
class _Setting:
    """One layer: which spectrum, at which stable rank and participation ratio."""

    spectrum: str
    stable_rank: float
    ratio: float

    def point(self, num_in: int) -> Point:
        """Return where its networks are drawn; spectral norm sqrt(n)."""
        law = RandomMLP(
            (num_in, _WIDTH),
            stable_rank=(self.stable_rank,),
            spectrum=self.spectrum,
            norm="spectral",
            sigma=math.sqrt(num_in),
        )
        return Point(f"{self.spectrum}, rho {self.ratio:.6g}", law)


def one_layer(inputs: Inputs, size: Size) -> Design:
    """Compare one layer's mean and fluctuation over spectra.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    n = inputs.dimension
    protocol = (
        f"one ReLU layer {n}-{_WIDTH} of spectral norm sqrt({n}); flat and spike with "
        f"participation ratio {listed(_RATIOS)}, flat, mp-spike and spike with stable "
        f"rank {_SHARED:g}; "
        + size.text(inputs, recorded="first and second moment of |h|^2 / |x|^2")
    )
    settings = _settings(n)
    num = len(_RATIOS)
    shared = {"flat": _RATIOS.index(_SHARED), "mp-spike": 2 * num, "spike": 2 * num + 1}
    points = tuple(_point(name, i, settings[i], n) for name, i in shared.items())
    questions = [
        *(
            _relative_variance(name, i, settings[i], points, inputs, protocol)
            for name, i in shared.items()
        ),
        _linear(settings, inputs, protocol),
        _same_ratio(settings, inputs, protocol),
        _means(settings, inputs, protocol),
    ]
    drawn = [setting.point(n) for setting in settings]
    return design("fluctuations", inputs, size, drawn, questions, MOMENTS)


def _settings(num_in: int) -> list[_Setting]:
    """Flat and spike at each ratio, then mp-spike and spike at the shared rank."""
    p = min(num_in, _WIDTH)
    spiked = laws.LayerLaw(
        spectra.spike_squares(_SHARED, _WIDTH, num_in), num_in, _WIDTH
    ).participation_ratio
    return [
        *(_Setting("flat", rho, rho) for rho in _RATIOS),
        *(_Setting("spike", spectra.spike_stable_rank(rho, p), rho) for rho in _RATIOS),
        _Setting("mp-spike", _SHARED, spectra.mp_spike_ratio(_SHARED, _WIDTH, num_in)),
        _Setting("spike", _SHARED, spiked),
    ]


def _expected(settings: Sequence[_Setting], num_in: int) -> np.ndarray:
    return np.array(
        [laws.relative_second_moment(s.ratio, num_in, _WIDTH) for s in settings]
    )


def _point(name: str, i: int, setting: _Setting, num_in: int) -> Line:
    """One point of the figure that the spectra at the shared stable rank have."""
    return Line(
        name,
        [1.0 / setting.ratio],
        lambda y: relative_second_moments(y, [i]),
        list(_expected([setting], num_in)),
    )


def _relative_variance(
    name: str,
    i: int,
    setting: _Setting,
    points: tuple[Line, ...],
    inputs: Inputs,
    protocol: str,
) -> Question:
    expected = float(_expected([setting], inputs.dimension)[0])
    claim = ours(
        f"fluctuations.relative-variance.{name}",
        inputs.data,
        f"At stable rank {_SHARED:g} the relative variance of |h|^2 after one layer "
        f"of spectrum {name!r} is {expected - 1:.4g}, that of its participation ratio "
        f"{setting.ratio:.3g}.",
        protocol=protocol,
        quantity="ratio_to_prediction",
    )

    def found(y: np.ndarray) -> np.ndarray:
        return np.asarray(
            (relative_second_moments(y, [i])[:, 0] - 1.0) / (expected - 1.0)
        )

    return Question(claim, found, _AXES, points)


def _lines(settings: Sequence[_Setting], num_in: int) -> tuple[Line, ...]:
    """Flat and spike over 1/rho."""
    num = len(_RATIOS)
    expected = _expected(settings, num_in)
    x = [1.0 / rho for rho in _RATIOS]
    first, second = range(num), range(num, 2 * num)
    return (
        Line(
            "flat", x, lambda y: relative_second_moments(y, first), list(expected[:num])
        ),
        Line(
            "spike",
            x,
            lambda y: relative_second_moments(y, second),
            list(expected[num : 2 * num]),
        ),
    )


def _linear(settings: Sequence[_Setting], inputs: Inputs, protocol: str) -> Question:
    n, both = inputs.dimension, range(2 * len(_RATIOS))
    x = np.array([1.0 / settings[i].ratio for i in both])
    slope = 2.0 * n / (n + 2) * (_WIDTH + 5) / (_WIDTH + 2)
    claim = ours(
        "fluctuations.linear-in-inverse-participation-ratio",
        inputs.data,
        "The relative second moment of |h|^2 is one straight line in 1/rho for flat "
        "and spike spectra together, of slope 2 n/(n+2) (m+5)/(m+2) = "
        f"{slope:.4g}.",
        protocol=protocol,
        quantity="slope_over_prediction",
    )
    return Question(
        claim,
        lambda y: slopes(x, relative_second_moments(y, both)) / slope,
        _AXES,
        _lines(settings, n),
    )


def _same_ratio(
    settings: Sequence[_Setting], inputs: Inputs, protocol: str
) -> Question:
    num = len(_RATIOS)
    claim = ours(
        "fluctuations.same-participation-ratio",
        inputs.data,
        "Spectra of one participation ratio have one relative variance, whatever "
        "their stable ranks: flat over spike is 1 (geometric mean over the ratios).",
        protocol=protocol,
        quantity="ratio_of_relative_variances",
    )

    def estimates(y: np.ndarray) -> np.ndarray:
        flat, spike = (
            np.log(relative_second_moments(y, i) - 1.0)
            for i in (range(num), range(num, 2 * num))
        )
        return np.asarray(np.exp((flat - spike).mean(1)))

    return Question(claim, estimates, _AXES, _lines(settings, inputs.dimension))


def _means(settings: Sequence[_Setting], inputs: Inputs, protocol: str) -> Question:
    n, num = inputs.dimension, len(_RATIOS)
    ranks = [s.stable_rank for s in settings[: 2 * num]]
    expected = [spectral_mean_signal((n, _WIDTH), [math.sqrt(n)], [r]) for r in ranks]
    target = np.log(np.array(ranks[:num]) / np.array(ranks[num:]))
    claim = ours(
        "fluctuations.means-go-with-the-stable-rank",
        inputs.data,
        "The means of the same networks go with their stable ranks: log(mean flat / "
        "mean spike) at one participation ratio is log(sr flat / sr spike) (mean over "
        "the participation ratios of one over the other).",
        protocol=protocol,
        quantity="log_ratio_over_prediction",
    )

    def means(y: np.ndarray, first: int) -> np.ndarray:
        return np.asarray(y[:, first : first + num, :, 0].mean(-1))

    return Question(
        claim,
        lambda y: (np.log(means(y, 0) / means(y, num)) / target).mean(1),
        Axes("stable rank", "mean of |h|^2 / |x|^2", "mean_signal", "log", "log"),
        (
            Line("flat", ranks[:num], lambda y: means(y, 0), expected[:num]),
            Line("spike", ranks[num:], lambda y: means(y, num), expected[num:]),
        ),
    )
