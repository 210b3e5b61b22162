"""Claims on signals, angles, lengths, pieces and gradients of random networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from spectrank.experiments.georgiev2021stable.protocol import (
    DIMENSIONS,
    Design,
    Inputs,
    Size,
)
from spectrank.experiments.georgiev2021stable.signal import (
    collapse,
    fluctuations,
    gradients,
    length,
    lognormal,
    pieces,
    products,
    sampler,
)
from spectrank.experiments.papers import Mode, Part


@final
@dataclass(frozen=True)
class _Experiment:
    """A design and how many networks it draws at each point and replicate.

    In the quick run every tolerance is at least 6.8 standard errors, measured with 40
    to 60 seeds: Student's interval of ten seeds then leaves it, for a true claim, in
    less than one run of ten thousand.
    """

    design: Callable[[Inputs, Size], Design]
    num_networks: int


_EXPERIMENTS = (
    _Experiment(fluctuations.one_layer, 192),
    _Experiment(products.products, 256),
    _Experiment(lognormal.log_moments, 320),
    _Experiment(lognormal.near_normal, 512),
    _Experiment(lognormal.low_ratio, 512),
    _Experiment(collapse.collapse, 512),
    _Experiment(length.length, 128),
    _Experiment(pieces.pieces, 128),
    _Experiment(gradients.gradients, 512),
)
_NUM_SEEDS: Mapping[Mode, int] = MappingProxyType({"quick": 10, "full": 20})
_NUM_INPUTS: Mapping[Mode, int] = MappingProxyType({"quick": 64, "full": 128})
_DATA: Mapping[Mode, tuple[str, ...]] = MappingProxyType(
    {"quick": ("digits",), "full": tuple(DIMENSIONS)}
)
_SAMPLER: Mapping[Mode, sampler.SamplerSize] = MappingProxyType(
    {
        "quick": sampler.SamplerSize(10, num_matrices=32, num_directions=1000),
        "full": sampler.SamplerSize(20, num_matrices=128, num_directions=4000),
    }
)


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode, the sampler first.

    Args:
        mode: ``quick`` (digits) or ``full`` (four data sets).

    Returns:
        The parts.
    """
    # One object for the experiments of a data set: it is read once.
    sources = [Inputs(data, _NUM_INPUTS[mode]) for data in _DATA[mode]]
    return (
        sampler.sampler(_SAMPLER[mode]),
        *(
            each.design(inputs, Size(_NUM_SEEDS[mode], each.num_networks)).part()
            for inputs in sources
            for each in _EXPERIMENTS
        ),
    )
