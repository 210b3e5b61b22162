r"""Wide networks: a bounded stable rank keeps the kernel random, a diverging one not.

With rho bounded in the square weights the relative variance of K(x, x) has a limit
above 0 as the width n grows; with stable rank n/4 it falls as 1/n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

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
from spectrank.experiments.georgiev2021stable.signal.questions import (
    Axes,
    Line,
    Question,
    design,
)

BOUNDED = 8.0
_DEPTH = 4
_INFINITE = 10**7
_AXES = Axes(
    "width",
    "relative variance of K(x, x)",
    "relative_variance",
    x_scale="log",
    y_scale="log",
)


@final
@dataclass(frozen=True, eq=False)
class _Family:
    """One stable rank, fixed or a share of the width, over all widths."""

    series: str
    nets: tuple[Net, ...]
    first: int
    inputs: Inputs
    protocol: str

    @cached_property
    def logs(self) -> np.ndarray:
        return np.log([net.widths[1] for net in self.nets])

    @cached_property
    def expected(self) -> np.ndarray:
        return np.array([net.law.relative_variance for net in self.nets])

    @cached_property
    def exact_slope(self) -> float:
        return float(slopes(self.logs, np.log(self.expected)[None])[0])

    def shares(self, y: np.ndarray) -> np.ndarray:
        """(R, G) relative variances over their exact values."""
        return np.asarray(self._found(y) / self.expected)

    @property
    def line(self) -> Line:
        widths = [float(net.widths[1]) for net in self.nets]
        return Line(self.series, widths, self._found, list(self.expected))

    def slope(self, name: str, statement: str, lines: tuple[Line, ...]) -> Question:
        """Ask for the log-log slope in the width."""
        claim = ours(
            f"width.{name}",
            self.inputs.data,
            f"{statement}: the log-log slope of the relative variance of K(x, x) in "
            f"the width is the exact one, {self.exact_slope:.3g}.",
            protocol=self.protocol,
            quantity="log_log_slope",
            expected=self.exact_slope,
            tolerance=0.15,
        )
        # Linear in what is found: the log of a variance from few networks is biased.
        return Question(
            claim,
            lambda y: slopes(self.logs, self.shares(y)) + self.exact_slope,
            _AXES,
            lines,
        )

    def widest(self, limit: float, lines: tuple[Line, ...]) -> Question:
        """Ask whether the widest networks keep what infinitely wide ones have."""
        claim = ours(
            "width.bounded-keeps-its-limit",
            self.inputs.data,
            f"At width {self.nets[-1].widths[1]} and stable rank {BOUNDED:g} the "
            "kernel is as random as in the limit of infinite width: the relative "
            f"variance of K(x, x) is at least the limit's, {limit:.4g}.",
            protocol=self.protocol,
            quantity="ratio_to_limit",
            tolerance=0.25,
            relation="at_least",
        )
        return Question(claim, lambda y: self._found(y)[:, -1] / limit, _AXES, lines)

    def ratio(self, name: str, lines: tuple[Line, ...]) -> Question:
        """Ask for the mean ratio to the exact recursion."""
        claim = ours(
            f"width.{name}",
            self.inputs.data,
            f"With {self.series} in the square weights the relative variance of "
            "K(x, x) is that of the exact recursion at every width (mean of found over "
            "exact).",
            protocol=self.protocol,
            quantity="ratio_to_prediction",
            tolerance=0.15,
        )
        return Question(claim, lambda y: self.shares(y).mean(1), _AXES, lines)

    def _found(self, y: np.ndarray) -> np.ndarray:
        own = range(self.first, self.first + len(self.nets))
        return relative_variances(y, own)


def width(inputs: Inputs, size: Size, widths: Sequence[int]) -> Design:
    """Follow the relative variance over widths, at stable rank 8 and n/4.

    Args:
        inputs: What the networks see.
        size: How much is drawn.
        widths: Of the hidden layers, ascending.

    Returns:
        The design.
    """
    protocol = (
        f"ReLU networks of {_DEPTH} weights without biases, {inputs.dimension} inputs, "
        f"widths {listed(widths)}, one output, ||W||_F^2 = 2 m; first weight Gaussian, "
        f"square weights flat of stable rank {BOUNDED:g} or n/4; slope of the relative "
        "variance over its exact value, in the log of the width, added to the slope of "
        "the exact log; "
        + size.text(inputs, recorded="first and second moment of K(x, x) / |x|^2")
    )
    num, n = len(widths), inputs.dimension
    nets = [
        *(_net(n, width, BOUNDED) for width in widths),
        *(_net(n, width, width / 4.0) for width in widths),
    ]
    bounded = _Family(
        f"stable rank {BOUNDED:g}", tuple(nets[:num]), 0, inputs, protocol
    )
    diverging = _Family("stable rank n/4", tuple(nets[num:]), num, inputs, protocol)
    lines = (bounded.line, diverging.line)
    limit = _net(n, _INFINITE, BOUNDED).law.relative_variance
    questions = [
        bounded.slope(
            "bounded-stays-random",
            f"With stable rank {BOUNDED:g} in the square weights the kernel stays "
            "random however wide the network",
            lines,
        ),
        bounded.widest(limit, lines),
        bounded.ratio("bounded-over-prediction", lines),
        diverging.slope(
            "diverging-becomes-deterministic",
            "With stable rank n/4 in the square weights the kernel becomes "
            "deterministic as the network grows",
            lines,
        ),
        diverging.ratio("diverging-over-prediction", lines),
    ]
    points = [net.point() for net in nets]
    return design("kernel-width", inputs, size, points, questions, KERNEL_MOMENTS)


def _net(num_in: int, width: int, rank: float) -> Net:
    return hidden_net(
        f"rank {rank:g}, width {width}", num_in, width, _DEPTH, "flat", rank
    )
