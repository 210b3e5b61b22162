"""Claims on the tangent kernel: mean, relative variance, width, training by it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spectrank.experiments.georgiev2021stable.kernel import (
    flow,
    means,
    rate,
    speed,
    variances,
    widths,
)
from spectrank.experiments.georgiev2021stable.kernel.descent import Halves
from spectrank.experiments.georgiev2021stable.protocol import DIMENSIONS, Inputs, Size
from spectrank.experiments.papers import Mode, Part

_NUM_INPUTS = 64
_DATA: Mapping[Mode, tuple[str, ...]] = MappingProxyType(
    {"quick": ("digits",), "full": tuple(DIMENSIONS)}
)
_NUM_SEEDS: Mapping[Mode, int] = MappingProxyType({"quick": 10, "full": 20})
_WIDTHS: Mapping[Mode, tuple[int, ...]] = MappingProxyType(
    {"quick": (32, 64, 128, 256), "full": (64, 128, 256, 512, 1024)}
)
_NUM_TRAINED = 48
_FLOW_WIDTHS: Mapping[Mode, tuple[int, ...]] = MappingProxyType(
    {"quick": (32, 64, 128, 256), "full": (64, 128, 256, 512)}
)
_WIDEST = 2048
"""On digits alone in the full run: half a second a network."""


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    In the quick run every tolerance of the claims on mean and variance is at least 6.8
    standard errors, measured with 20 or 24 seeds: Student's interval of ten seeds then
    leaves it, for a true claim, in less than one run of ten thousand. Those on flow and
    rate were tried with 8 to 12 seeds, those on speed with 11 base seeds.

    Args:
        mode: ``quick`` (digits) or ``full`` (four data sets).

    Returns:
        The parts.
    """
    # One object for the experiments of a data set: it is read once.
    sources = [Inputs(data, _NUM_INPUTS) for data in _DATA[mode]]
    return tuple(part for inputs in sources for part in _parts(mode, inputs))


def _parts(mode: Mode, inputs: Inputs) -> list[Part]:
    num, widths_ = _NUM_SEEDS[mode], _WIDTHS[mode]
    # Sixteen networks of the greatest width take a gigabyte.
    drawn = Size(num, 64) if mode == "quick" else Size(3 * num // 2, 16)
    if mode == "full" and inputs.data == "digits":
        widths_ = (*widths_, _WIDEST)
    designs = (
        means.one_layer(inputs, Size(num, 32)),
        means.all_layers(inputs, Size(num, 64)),
        variances.spectrum(inputs, Size(num, 384)),
        variances.depth(inputs, Size(num, 256)),
        widths.width(inputs, drawn, widths_),
    )
    halves = Halves(inputs.data, _NUM_TRAINED)
    found = [
        *(design.part() for design in designs),
        flow.part(halves, flow.FlowSize(num, 8, _FLOW_WIDTHS[mode])),
        rate.part(halves, rate.RateSize(num, 6)),
    ]
    if inputs.data in speed.TARGETS:
        found.append(speed.part(speed.speed_cell(inputs.data)))
    return found
