"""False laws of convolutions: absolute values, mixed columns, chosen positions.

R  seeds    n  samples    o, c  channels    t  positions    k  places of a kernel
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spectrank.experiments.le2022training.conservation.followed import (
    SMOOTH,
    Case,
    fails,
    holds,
)
from spectrank.experiments.le2022training.conservation.junctions import (
    Activation,
    convolve,
    layer_shapes,
)
from spectrank.experiments.le2022training.problems import Params, affine

_UNITS = 6
_CHANNELS, _POSITIONS = 4, 6


def cases() -> list[Case]:
    """Return the networks with the laws that they break.

    Returns:
        Two convolutions into dense layers; convolutions with pooling after them.
    """
    return [
        _convolutions(),
        _pooled("max", lambda h: h.amax(3, keepdim=True)),
        _pooled("average", lambda h: h.mean(3, keepdim=True)),
    ]


def channel_law(params: Mapping[str, Tensor], *, absolute: bool = False) -> Tensor:
    """Sum over tied pairs of w w' that enter two channels, minus that of those leaving.

    Args:
        params: ``first.weight`` (R, c, 1, k), ``second.weight`` (R, o, c, k).
        absolute: Take |w| |w'|.

    Returns:
        (R, c, c) with a zero diagonal.
    """
    first = params["first.weight"].flatten(2)
    bias = params["first.bias"].unsqueeze(2)
    entering = torch.cat([first, bias], 2)
    leaving = params["second.weight"].transpose(1, 2).flatten(2)
    if absolute:
        entering, leaving = entering.abs(), leaving.abs()
    found = entering @ entering.mT - leaving @ leaving.mT
    return found - found.diagonal(dim1=1, dim2=2).diag_embed()


def columns_law(params: Mapping[str, Tensor], *, by_channel: bool) -> Tensor:
    """In minus out of the channels between a convolution and a dense layer.

    Args:
        params: Of every seed.
        by_channel: Whether columns belong to channels as in the flattened tensor, or,
            wrongly, as in one with channels last.

    Returns:
        (R, c).
    """
    entering = params["second.weight"].flatten(2).square().sum(2)
    entering = entering + params["second.bias"].square()
    dense = params["dense.weight"].square().sum(1)
    num, channels = entering.shape
    shape = (num, channels, -1) if by_channel else (num, -1, channels)
    leaving: Tensor = dense.reshape(shape).sum(2 if by_channel else 1)
    return entering - leaving


def _convolutions() -> Case:
    """Two linear convolutions, flattened, and two dense layers."""

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        h = convolve(params, "first", x.unsqueeze(2))
        h = convolve(params, "second", h).flatten(2)
        return affine(params, "head", affine(params, "dense", h))[..., 0]

    places = _POSITIONS - 2
    shapes = {
        **layer_shapes("first", _CHANNELS, 1, 3),
        **layer_shapes("second", _CHANNELS, _CHANNELS, 3),
        **layer_shapes("dense", _UNITS, _CHANNELS * places),
        "head.weight": (1, _UNITS),
    }
    return Case(
        "convolutions",
        f"two linear convolutions of {_CHANNELS} channels, linear dense layers "
        f"{_CHANNELS * places}-{_UNITS}-1",
        shapes,
        forward,
        (
            holds(
                "channels-signed",
                "Two channels between linear convolutions: tied pairs w w' that enter "
                "minus those that leave are conserved, with their signs.",
                channel_law,
                SMOOTH,
                place="Lemma 9",
                source="the version with signs ours",
            ),
            fails(
                "channels-absolute",
                "With absolute values, as Lemma 9 is printed, they are not.",
                lambda p: channel_law(p, absolute=True),
                "derived: the law is bilinear in the weights of the two channels; the "
                "printed form is Le & Jegelka (2022), Lemma 9",
            ),
            holds(
                "columns-by-channel",
                "A channel that is flattened into a dense layer: in minus out is "
                "conserved, columns gathered by channel.",
                lambda p: columns_law(p, by_channel=True),
                SMOOTH,
                place="Theorem 1",
            ),
            fails(
                "columns-mixed",
                "Columns gathered as if channels came last do not give a law.",
                lambda p: columns_law(p, by_channel=False),
                "derived: these columns read other channels",
            ),
        ),
    )


def _pooled(pool: str, function: Activation) -> Case:
    """A linear convolution, pooled over positions, and the head."""

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        h = function(convolve(params, "first", x.unsqueeze(2)))
        return affine(params, "head", h.flatten(2))[..., 0]

    def off(params: Params) -> Tensor:
        kernel = torch.cat(
            [params["first.weight"].flatten(2), params["first.bias"].unsqueeze(2)], 2
        )
        head = params["head.weight"]
        found = kernel @ kernel.mT - head.mT @ head
        return found - found.diagonal(dim1=1, dim2=2).diag_embed()

    statement = f"Two channels of a linear convolution with {pool} pooling after it: "
    if pool == "average":
        law = holds(
            "pooled-average",
            f"{statement}their law holds.",
            off,
            SMOOTH,
            source="derived: a linear map that treats all channels alike",
        )
    else:
        law = fails(
            f"pooled-{pool}",
            f"{statement}their law does not hold.",
            off,
            "derived: different positions are chosen in different channels",
        )
    shapes = {**layer_shapes("first", _UNITS, 1, 3), "head.weight": (1, _UNITS)}
    words = f"linear convolution of {_UNITS} channels, {pool} over positions, head"
    return Case(f"pooled-{pool}", words, shapes, forward, (law,))
