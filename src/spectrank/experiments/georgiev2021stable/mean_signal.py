"""The mean signal: linear in each stable rank, exponential in depth."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spectrank.experiments.georgiev2021stable import depths, designs
from spectrank.experiments.georgiev2021stable.protocol import DIMENSIONS, Inputs, Size
from spectrank.experiments.papers import Mode, Part

_SIZES: Mapping[Mode, Size] = MappingProxyType(
    {
        "quick": Size(num_seeds=10, num_networks=64),
        "full": Size(num_seeds=20, num_networks=256),
    }
)
_NUM_INPUTS: Mapping[Mode, int] = MappingProxyType({"quick": 64, "full": 256})
_DATA: Mapping[Mode, tuple[str, ...]] = MappingProxyType(
    {"quick": ("digits",), "full": tuple(DIMENSIONS)}
)
_DESIGNS = (
    designs.one_layer,
    designs.all_layers,
    depths.depth,
    designs.spectra,
    designs.frobenius,
)


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (digits) or ``full`` (four data sets).

    Returns:
        The parts.
    """
    # One object for the experiments of a data set: it is read once.
    sources = [Inputs(data, _NUM_INPUTS[mode]) for data in _DATA[mode]]
    return tuple(
        design(inputs, _SIZES[mode]).part() for inputs in sources for design in _DESIGNS
    )
