"""Relative second moments of layers multiply."""

from __future__ import annotations

import math
from collections.abc import Sequence

from spectrank.experiments.georgiev2021stable.figures import listed
from spectrank.experiments.georgiev2021stable.networks import Point
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

_HIDDEN = (48, 80, 40)
_RANK = 8.0
_NAMES = ("flat", "mp-spike", "spike")


def products(inputs: Inputs, size: Size) -> Design:
    """Compare the relative second moment of three layers with the product.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, ||W||_F^2 = 2 m, stable rank "
        f"{_RANK:g} in all layers; "
        + size.text(inputs, recorded="first and second moment of |h_L|^2 / |x|^2")
    )
    lines = tuple(_line(i, name, widths) for i, name in enumerate(_NAMES))
    questions = [
        _product(i, name, lines, inputs, protocol) for i, name in enumerate(_NAMES)
    ]
    ranks = (_RANK,) * len(_HIDDEN)
    points = [
        Point(name, RandomMLP(widths, stable_rank=ranks, spectrum=name))
        for name in _NAMES
    ]
    return design("products", inputs, size, points, questions, MOMENTS)


def _ratios(name: str, widths: Sequence[int]) -> list[float]:
    """Participation ratio of each layer."""
    r, pairs = _RANK, list(zip(widths[1:], widths[:-1], strict=True))
    if name == "flat":
        return [r] * len(pairs)
    if name == "mp-spike":
        return [spectra.mp_spike_ratio(r, m, n) for m, n in pairs]
    return [
        laws.LayerLaw(spectra.spike_squares(r, m, n), n, m).participation_ratio
        for m, n in pairs
    ]


def _line(i: int, name: str, widths: Sequence[int]) -> Line:
    """One point of the figure that the spectra share."""
    ratios = _ratios(name, widths)
    expected = math.prod(
        laws.relative_second_moment(rho, n, m)
        for rho, n, m in zip(ratios, widths[:-1], widths[1:], strict=True)
    )
    return Line(
        name,
        [sum(1.0 / rho for rho in ratios)],
        lambda y: relative_second_moments(y, [i]),
        [expected],
    )


def _product(
    i: int, name: str, lines: tuple[Line, ...], inputs: Inputs, protocol: str
) -> Question:
    own = lines[i].expected
    assert own is not None
    expected = own[0]
    claim = ours(
        f"fluctuations.product-over-layers.{name}",
        inputs.data,
        f"With spectrum {name!r} the relative second moment of |h_L|^2 is the product "
        f"of those of its {len(_HIDDEN)} layers, {expected:.4g} (relative variance "
        "over prediction).",
        protocol=protocol,
        quantity="ratio_to_prediction",
    )
    return Question(
        claim,
        lambda y: (relative_second_moments(y, [i])[:, 0] - 1.0) / (expected - 1.0),
        Axes(
            "sum over layers of 1 / participation ratio",
            "relative second moment of |h_L|^2",
            "relative_second_moment",
        ),
        lines,
    )
