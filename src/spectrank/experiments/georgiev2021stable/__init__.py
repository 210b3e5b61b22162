"""Georgiev, Franken, Mukherjee & Arvanitidis (2021), arXiv:2110.02333.

Only the abstract is public to us: a statement is attributed to it alone, and every
sampling law, protocol and constant here is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spectrank.experiments.georgiev2021stable import depths, designs
from spectrank.experiments.georgiev2021stable.protocol import DIMENSIONS, Inputs, Size
from spectrank.experiments.papers import Mode, Paper, Part

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


def _parts(mode: Mode) -> tuple[Part, ...]:
    # One object for the experiments of a data set: it is read once.
    sources = [Inputs(data, _NUM_INPUTS[mode]) for data in _DATA[mode]]
    return tuple(
        design(inputs, _SIZES[mode]).part() for inputs in sources for design in _DESIGNS
    )


PAPER = Paper(
    key="georgiev2021stable",
    title="On the Impact of Stable Ranks in Deep Nets",
    authors="B. Georgiev, L. Franken, M. Mukherjee, G. Arvanitidis",
    identifier="arXiv:2110.02333",
    parts=_parts,
    cost=MappingProxyType(
        {
            "quick": "bundled digits, under a minute on two cores",
            "full": "digits, MNIST, Fashion-MNIST and CIFAR-10 with 20 seeds of 256 "
            "networks a point, about 20 minutes on one core, 2 GB",
        }
    ),
)
