r"""log |h_L|^2: its mean, its variance, how nearly it is normal, and where it is not.

Exact at every width for singular values that are not random: cumulants of independent
layers add. To leading order they are those of a normal law,

    mean  sum log(a1 / (2 n)) - beta / 2,   variance  beta = sum (2/rho - 2/n + 3/m),

which needs rho large in every layer: at rho = 2 the law of one layer is skewed and its
variance well above beta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from spectrank.experiments.georgiev2021stable.estimates import (
    jackknifed,
    kolmogorov_distances,
)
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.networks import Point
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal import spectra
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.georgiev2021stable.signal.observables import (
    LOG_SIGNALS,
    log_cumulants,
)
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)
from spectrank.experiments.georgiev2021stable.signal.stacks import FixedSpectrum, Stack
from spectrank.random_nets import RandomMLP

_WIDTH = 64
_DEPTH = 8
_LAYERS = [float(depth) for depth in range(1, _DEPTH + 1)]
_STACKS: tuple[tuple[FixedSpectrum, float], ...] = (("flat", 16.0), ("spike", 4.0))
_BULK_RANK = 8.0
_LOW_RANK = 2.0
_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
_RECORDED = "log(|h_l|^2 / |x|^2) and its powers"
_OWN = 4


def log_moments(inputs: Inputs, size: Size) -> Design:
    """Compare mean and variance of the log with their exact values.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = _widths(inputs, _DEPTH)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, ||W||_F^2 = 2 m; "
        f"{size.text(inputs, recorded=_RECORDED)}"
    )
    stacks = [Stack(name, rank, widths) for name, rank in _STACKS]
    questions = [
        ask(i, stack, inputs, protocol)
        for i, stack in enumerate(stacks)
        for ask in (_mean, _variance)
    ]
    points = [stack.point() for stack in stacks]
    return design("log-moments", inputs, size, points, questions, LOG_SIGNALS)


def _widths(inputs: Inputs, num_layers: int) -> tuple[int, ...]:
    return (inputs.dimension, *(_WIDTH,) * num_layers)


def _mean(i: int, stack: Stack, inputs: Inputs, protocol: str) -> Question:
    """Ask for the gap between E log and log E, 0 without fluctuations."""
    logs = np.cumsum([math.log(layer.mean) for layer in stack.layers])
    expected = _cumulants(stack, 0) - logs
    claim = ours(
        f"log-normal.mean.{stack.spectrum}",
        inputs.data,
        f"After {_DEPTH} layers of {stack.text} E log |h_L|^2 - log E |h_L|^2 is "
        f"{expected[-1]:.4g}.",
        protocol=protocol,
        quantity="log_mean_gap",
        expected=float(expected[-1]),
    )

    def found(y: np.ndarray) -> np.ndarray:
        return np.asarray(_log_cumulants(y, i)[..., 0] - logs)

    axes = Axes("number of layers", "E log |h|^2 - log E |h|^2", "log_mean_gap")
    line = Line(stack.text, _LAYERS, found, list(expected))
    return Question(claim, lambda y: found(y)[:, -1], axes, (line,))


def _variance(i: int, stack: Stack, inputs: Inputs, protocol: str) -> Question:
    expected = _cumulants(stack, 1)
    claim = ours(
        f"log-normal.variance.{stack.spectrum}",
        inputs.data,
        f"After {_DEPTH} layers of {stack.text} the variance of log |h_L|^2 is "
        f"{expected[-1]:.4g}.",
        protocol=protocol,
        quantity="ratio_to_prediction",
    )

    def found(y: np.ndarray) -> np.ndarray:
        return np.asarray(_log_cumulants(y, i)[..., 1])

    axes = Axes("number of layers", "variance of log |h|^2", "log_signal_variance")
    line = Line(stack.text, _LAYERS, found, list(expected))
    return Question(claim, lambda y: found(y)[:, -1] / expected[-1], axes, (line,))


def _cumulants(stack: Stack, order: int) -> np.ndarray:
    """Exact, by layer."""
    found = [layer.log_cumulants()[order] for layer in stack.layers]
    return np.asarray(np.cumsum(found))


def near_normal(inputs: Inputs, size: Size) -> Design:
    """Hold the log of a deep network against the normal law of leading order.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = _widths(inputs, _DEPTH)
    ratios = [
        spectra.mp_spike_ratio(_BULK_RANK, m, n)
        for m, n in zip(widths[1:], widths[:-1], strict=True)
    ]
    mean, beta = _leading_order(widths, ratios)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, ||W||_F^2 = 2 m, mp-spike of stable "
        f"rank {_BULK_RANK:g}, one input of {inputs.data} for each network; "
        f"{size.num_seeds} seeds x {size.num_networks} networks, whose own distance "
        f"is about {0.87 / math.sqrt(size.num_networks):.2g} under the law itself"
    )
    claim = ours(
        "log-normal.near-normal",
        inputs.data,
        f"After {_DEPTH} layers of participation ratio {min(ratios):.3g} or more "
        f"log |h_L|^2 is nearly normal with variance beta = {beta:.4g} and mean "
        "log E |h_L|^2 - beta/2 (Kolmogorov distance).",
        protocol=protocol,
        quantity="kolmogorov_distance",
        expected=0.08,
        tolerance=0.0,
        relation="at_most",
    )
    question = Question(
        claim,
        lambda y: kolmogorov_distances(ndtr(_standardised(y, mean, beta))),
        _QUANTILES,
        (_quantile_line("mp-spike", mean, beta),),
    )
    law = RandomMLP(widths, stable_rank=(_BULK_RANK,) * _DEPTH)
    points = [Point("mp-spike", law)]
    return design("log-normal", inputs, size, points, [question], LOG_SIGNALS)


def low_ratio(inputs: Inputs, size: Size) -> Design:
    """Show where the leading order fails: one layer of participation ratio 2.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    stack = Stack("flat", _LOW_RANK, _widths(inputs, 1))
    mean, beta = _leading_order(stack.widths, [_LOW_RANK])
    cumulants = stack.layers[0].log_cumulants()
    skewness = float(cumulants[2] / cumulants[1] ** 1.5)
    protocol = (
        f"one ReLU layer {listed(stack.widths, '-')}, ||W||_F^2 = 2 m; "
        f"{size.text(inputs, recorded=_RECORDED)}; quantiles of one input a network"
    )
    fails = ours(
        "log-normal.fails-at-small-rho.variance",
        inputs.data,
        f"At participation ratio {_LOW_RANK:g} the leading order fails: the variance "
        f"of log |h|^2 is {cumulants[1] / beta:.3g} beta, well above beta.",
        protocol=protocol,
        quantity="variance_over_beta",
        expected=1.25,
        tolerance=0.0,
        relation="at_least",
    )
    skewed = ours(
        "log-normal.fails-at-small-rho.skewness",
        inputs.data,
        f"At participation ratio {_LOW_RANK:g} log |h|^2 is not normal: its skewness "
        f"is {skewness:.3g}.",
        protocol=protocol,
        quantity="skewness",
        expected=skewness,
        tolerance=0.2,
    )
    lines = (_quantile_line(stack.text, mean, beta),)
    questions = [
        Question(
            fails, lambda y: _log_cumulants(y, 0)[:, 0, 1] / beta, _QUANTILES, lines
        ),
        Question(skewed, _skewness, _QUANTILES, lines),
    ]
    points = [stack.point()]
    return design("log-low-ratio", inputs, size, points, questions, LOG_SIGNALS)


_QUANTILES = Axes(
    "quantile of the normal law",
    "quantile of (log |h|^2 - mean) / sqrt(beta)",
    "standardised_log_signal",
)


def _leading_order(
    widths: Sequence[int], ratios: Sequence[float]
) -> tuple[float, float]:
    """Mean and variance beta of log |h_L|^2 at He scale."""
    pairs = list(zip(ratios, widths[:-1], widths[1:], strict=True))
    beta = math.fsum(2.0 / rho - 2.0 / n + 3.0 / m for rho, n, m in pairs)
    return math.log(widths[-1] / widths[0]) - beta / 2.0, beta


def _standardised(y: np.ndarray, mean: float, variance: float) -> np.ndarray:
    """(R, K) logs of one input, from (R, 1, K, L, 5)."""
    return np.asarray((y[:, 0, :, -1, _OWN] - mean) / math.sqrt(variance))


def _quantile_line(series: str, mean: float, variance: float) -> Line:
    normal = [float(x) for x in ndtri(_LEVELS)]
    return Line(
        series,
        normal,
        lambda y: np.quantile(_standardised(y, mean, variance), _LEVELS, axis=1).T,
        normal,
    )


def _log_cumulants(y: np.ndarray, i: int) -> np.ndarray:
    """(R, L, 3) cumulants at point i, from (R, P, K, L, 5)."""
    return jackknifed(log_cumulants, y[:, i])


def _skewness(y: np.ndarray) -> np.ndarray:
    def skewness(means: np.ndarray) -> np.ndarray:
        cumulants = log_cumulants(means)
        return np.asarray(cumulants[..., 2] / cumulants[..., 1] ** 1.5)

    return jackknifed(skewness, y[:, 0])[:, -1]
