"""Fleets on real images: ranks against weight decay, noise, depth and batch size."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spectrank.experiments.images import Images
from spectrank.experiments.papers import Mode, Part
from spectrank.experiments.zangrando2024neural.sweeps import decay
from spectrank.experiments.zangrando2024neural.sweeps.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps.training import Recipe

_NUM_SEEDS: Mapping[Mode, int] = MappingProxyType({"quick": 5, "full": 5})


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Args:
        mode: ``quick`` (bundled digits) or ``full``.

    Returns:
        The parts.
    """
    images = Images("digits")
    network = Mlp(images.num_pixels, 64, 4)
    sweeps = [
        decay.sweep(
            "",
            images,
            network,
            (3e-3, 1e-2, 3e-2, 1e-1),
            recipe=Recipe(),
            num_seeds=_NUM_SEEDS[mode],
        )
    ]
    return tuple(sweep.part() for sweep in sweeps)
