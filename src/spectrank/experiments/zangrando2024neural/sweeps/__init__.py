"""Fleets on real images: ranks against weight decay, noise, depth and batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from spectrank.experiments.images import Images
from spectrank.experiments.papers import Mode, Part
from spectrank.experiments.zangrando2024neural.networks import Cnn, Mlp
from spectrank.experiments.zangrando2024neural.removal.during import Design
from spectrank.experiments.zangrando2024neural.sweeps import (
    batches,
    controls,
    decay,
    depth,
    noise,
    window,
)
from spectrank.experiments.zangrando2024neural.sweeps.design import Sweep
from spectrank.experiments.zangrando2024neural.training import Recipe

_DECAYS = (3e-3, 1e-2, 3e-2, 1e-1)
_DECAY = 1e-2
_BATCHES = Recipe(momentum=0.0, tail=0.0)
_ADAMW = (3e-3, 0.3)


@final
@dataclass(frozen=True)
class _Size:
    """Perceptrons on a data set.

    Attributes:
        images: What is learned.
        width: Of the hidden layers.
        num_seeds: Networks of every cell.
        batches: Batch sizes.
    """

    images: Images
    width: int
    num_seeds: int
    batches: tuple[int, ...]


_DIGITS = _Size(Images("digits"), 64, 5, (4, 16, 64))
_MLPS: Mapping[Mode, tuple[_Size, ...]] = MappingProxyType(
    {
        "quick": (_DIGITS,),
        "full": (
            _DIGITS,
            _Size(Images("mnist", 10_000, 10_000), 128, 5, (4, 16, 64)),
            _Size(Images("fashion-mnist", 10_000, 10_000), 128, 5, (4, 16, 64)),
        ),
    }
)


def parts(mode: Mode) -> tuple[Part, ...]:
    """Return the experiments of a mode.

    Design, claims and limits were chosen after exploratory rounds on base seed 1000.

    Args:
        mode: ``quick`` (bundled digits) or ``full`` (MNIST and Fashion-MNIST too, and
            convolutional networks on MNIST and CIFAR-10).

    Returns:
        The parts.
    """
    found = [part for size in _MLPS[mode] for part in _of_mlps(size)]
    if mode == "full":
        found += [sweep.part() for sweep in _cnns()]
    return tuple(found)


def _of_mlps(size: _Size) -> list[Part]:
    images, num = size.images, size.num_seeds
    shallow = Mlp(images.num_pixels, size.width, 3)
    wide = Mlp(images.num_pixels, 128, 3)
    looked_back = window.Design(images, wide, 0.1, (8, 16, 32, 64, 120), num)
    during = Design(images, shallow, _DECAY, num_segments=10, num_seeds=num)
    sweeps = [sweep.part() for sweep in _mlps(size)]
    return [*sweeps, looked_back.part(), during.part()]


def _mlps(size: _Size) -> list[Sweep]:
    images, num = size.images, size.num_seeds
    shallow, deep = (Mlp(images.num_pixels, size.width, n) for n in (3, 4))
    return [
        decay.sweep("", images, deep, _DECAYS, recipe=Recipe(), num_seeds=num),
        noise.sweep(
            images,
            shallow,
            (0.0, 0.5, 1.0, 2.0),
            weight_decay=_DECAY,
            recipe=Recipe(),
            num_seeds=num,
        ),
        depth.sweep(
            images,
            size.width,
            (2, 3, 4, 6),
            weight_decay=_DECAY,
            recipe=Recipe(),
            num_seeds=num,
        ),
        batches.sweep(
            images,
            shallow,
            size.batches,
            weight_decay=_DECAY,
            recipe=_BATCHES,
            num_seeds=num,
        ),
        controls.sweep(
            "",
            images,
            shallow,
            weight_decay=_DECAY,
            recipe=Recipe(),
            adamw=_ADAMW,
            num_seeds=num,
        ),
    ]


def _cnns() -> list[Sweep]:
    found = []
    for data, channels in (("mnist", 1), ("cifar10", 3)):
        images = Images(data, 5_000, 5_000, spatial=True)
        network = Cnn(channels, (16, 32, 64))
        recipe = Recipe(learning_rate=0.05, least_steps=1500)
        found += [
            decay.sweep(
                "cnn", images, network, (1e-2, 3e-2), recipe=recipe, num_seeds=3
            ),
            controls.sweep(
                "cnn",
                images,
                network,
                weight_decay=_DECAY,
                recipe=recipe,
                adamw=_ADAMW,
                num_seeds=3,
            ),
        ]
    return found
