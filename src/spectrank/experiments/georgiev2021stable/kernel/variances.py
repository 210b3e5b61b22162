r"""The relative variance of K(x, x) over networks: by rho, and growing with depth.

The exact second moment of `laws.KernelLaw` contains a layer's spectrum through
E a1^2 and E a2 alone: at fixed Frobenius norm through rho = a1^2 / a2, not through the
stable rank. To leading order the relative variance is depth (4 / (3 rho) + 1 / n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spectrank.experiments.georgiev2021stable.estimates import slopes
from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.kernel.claims import ours
from spectrank.experiments.georgiev2021stable.kernel.nets import Net, hidden_net
from spectrank.experiments.georgiev2021stable.kernel.observables import (
    KERNEL_MOMENTS,
    relative_variances,
)
from spectrank.experiments.georgiev2021stable.protocol import Design, Inputs, Size
from spectrank.experiments.georgiev2021stable.signal import spectra
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)

_WIDTH = 32
_DEPTH = 4
_NAMES = ("flat", "mp-spike", "spike")
_SHARED = 6.0
_RATIOS = (8.0, 13.0, 26.0)
_DEPTHS = (3, 4, 5, 6)
_DEEP_RATIO = 20.0
_DEEP_WIDTH = 48
_TOLERANCE = 0.15
_SLOPE_TOLERANCE = 0.2
_RECORDED = "first and second moment of K(x, x) / |x|^2"
_METRIC = "relative_variance"
_Y = "relative variance of K(x, x)"


def spectrum(inputs: Inputs, size: Size) -> Design:
    """Compare the relative variance over spectra and participation ratios.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    protocol = (
        f"{_text(inputs, str(_DEPTH))}; square weights flat, mp-spike and spike of "
        f"stable rank {_SHARED:g}, flat and spike of participation ratio "
        f"{listed(_RATIOS)}; {size.text(inputs, recorded=_RECORDED)}"
    )
    nets = [
        *(_net(inputs, _DEPTH, name, _SHARED) for name in _NAMES),
        *(_net(inputs, _DEPTH, "flat", rho) for rho in _RATIOS),
        *(_net(inputs, _DEPTH, "spike", _spike_rank(rho)) for rho in _RATIOS),
    ]
    questions = [
        *(_exact(i, nets, inputs, protocol) for i in range(len(_NAMES))),
        _slope_in_inverse_ratio(nets, inputs, protocol),
        _same_ratio(nets, inputs, protocol),
    ]
    points = [
        # flat at rho = its stable rank is drawn twice, each time afresh.
        Net(f"{i}, {net.label}", net.widths, net.spectra, net.stable_ranks).point()
        for i, net in enumerate(nets)
    ]
    return design("kernel-spectrum", inputs, size, points, questions, KERNEL_MOMENTS)


def depth(inputs: Inputs, size: Size) -> Design:
    """Follow the relative variance through depth, at one participation ratio.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    protocol = (
        f"{_text(inputs, listed(_DEPTHS), _DEEP_WIDTH)}; square weights "
        f"spike of participation ratio {_DEEP_RATIO:g}; "
        f"{size.text(inputs, recorded=_RECORDED)}"
    )
    rank = spectra.spike_stable_rank(_DEEP_RATIO, _DEEP_WIDTH)
    nets = [_net(inputs, num, "spike", rank, _DEEP_WIDTH) for num in _DEPTHS]
    x = np.array(_DEPTHS, dtype=np.float64)
    expected = _expected(nets)
    slope = float(slopes(x, expected[None])[0])
    claim = ours(
        "relative-variance.grows-with-depth",
        inputs.data,
        f"The relative variance of K(x, x) grows with depth, by {slope:.4g} a layer at "
        f"participation ratio {_DEEP_RATIO:g} and width {_DEEP_WIDTH} (slope "
        "over the exact one).",
        protocol=protocol,
        quantity="slope_over_prediction",
        tolerance=_SLOPE_TOLERANCE,
    )
    everything = range(len(nets))
    question = Question(
        claim,
        lambda y: slopes(x, relative_variances(y, everything)) / slope,
        Axes("number of weights", _Y, _METRIC),
        (
            Line(
                f"spike, rho {_DEEP_RATIO:g}",
                list(x),
                lambda y: relative_variances(y, everything),
                list(expected),
            ),
        ),
    )
    points = [net.point() for net in nets]
    return design("kernel-depth", inputs, size, points, [question], KERNEL_MOMENTS)


def _text(inputs: Inputs, depths: str, width: int = _WIDTH) -> str:
    return (
        f"ReLU networks of {depths} weights without biases, {inputs.dimension} inputs, "
        f"width {width}, one output, ||W||_F^2 = 2 m; first weight Gaussian"
    )


def _net(inputs: Inputs, num: int, name: str, rank: float, width: int = _WIDTH) -> Net:
    label = f"{name}, stable rank {rank:.6g}, depth {num}"
    return hidden_net(label, inputs.dimension, width, num, name, rank)


def _spike_rank(rho: float) -> float:
    return spectra.spike_stable_rank(rho, _WIDTH)


def _expected(nets: Sequence[Net]) -> np.ndarray:
    return np.array([net.law.relative_variance for net in nets])


def _inverse_ratio(net: Net) -> float:
    return 1.0 / net.law.layers[1].participation_ratio


def _exact(i: int, nets: Sequence[Net], inputs: Inputs, protocol: str) -> Question:
    name, net = _NAMES[i], nets[i]
    expected = net.law.relative_variance
    claim = ours(
        f"relative-variance.{name}",
        inputs.data,
        f"At stable rank {_SHARED:g} with spectrum {name!r} the relative variance of "
        f"K(x, x) is that of the exact recursion, {expected:.4g}.",
        protocol=protocol,
        quantity="ratio_to_prediction",
        tolerance=_TOLERANCE,
    )
    lines = tuple(
        Line(_NAMES[k], [_inverse_ratio(nets[k])], _at(k), list(_expected([nets[k]])))
        for k in range(len(_NAMES))
    )
    return Question(
        claim,
        lambda y: relative_variances(y, [i])[:, 0] / expected,
        Axes("1 / participation ratio", _Y, _METRIC),
        lines,
    )


def _at(k: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: relative_variances(y, [k])


def _families(nets: Sequence[Net]) -> tuple[range, range, tuple[Line, ...]]:
    first, num = len(_NAMES), len(_RATIOS)
    flat, spike = range(first, first + num), range(first + num, first + 2 * num)
    x = [1.0 / rho for rho in _RATIOS]
    expected = list(_expected(nets[first : first + num]))
    lines = (
        Line("flat", x, lambda y: relative_variances(y, flat), expected),
        Line("spike", x, lambda y: relative_variances(y, spike), expected),
    )
    return flat, spike, lines


def _slope_in_inverse_ratio(
    nets: Sequence[Net], inputs: Inputs, protocol: str
) -> Question:
    flat, spike, lines = _families(nets)
    both = [*flat, *spike]
    x = np.array([_inverse_ratio(nets[i]) for i in both])
    slope = float(slopes(x, _expected([nets[i] for i in both])[None])[0])
    claim = ours(
        "relative-variance.grows-with-inverse-participation-ratio",
        inputs.data,
        "The relative variance of K(x, x) grows with 1/rho, for flat and spike spectra "
        f"together with slope {slope:.4g} (slope over the exact one).",
        protocol=protocol,
        quantity="slope_over_prediction",
        tolerance=_SLOPE_TOLERANCE,
    )
    return Question(
        claim,
        lambda y: slopes(x, relative_variances(y, both)) / slope,
        Axes("1 / participation ratio", _Y, _METRIC),
        lines,
    )


def _same_ratio(nets: Sequence[Net], inputs: Inputs, protocol: str) -> Question:
    flat, spike, lines = _families(nets)
    expected = _expected([nets[i] for i in flat])
    claim = ours(
        "relative-variance.same-participation-ratio",
        inputs.data,
        "Flat and spike spectra of one participation ratio give K(x, x) one relative "
        "variance, whatever their stable ranks: the difference over the exact value is "
        "0 (mean over the ratios).",
        protocol=protocol,
        quantity="difference_over_prediction",
        expected=0.0,
        tolerance=_TOLERANCE,
    )

    def estimates(y: np.ndarray) -> np.ndarray:
        difference = relative_variances(y, flat) - relative_variances(y, spike)
        return np.asarray((difference / expected).mean(1))

    return Question(
        claim, estimates, Axes("1 / participation ratio", _Y, _METRIC), lines
    )
