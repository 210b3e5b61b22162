"""The networks of the table of matrix laws, and the laws at their junctions.

Convolutions are one-dimensional, which changes no law: positions only multiply the
number of columns. Every layer but the last has a bias of size one half, as zero biases
hide what a law owes to them.

R  seeds    n  samples    o, c  channels    t  positions    k  places of a kernel
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from spectrank.experiments.le2022training.conservation.junctions import (
    Activation,
    Junction,
    Network,
    Shapes,
    convolve,
    layer_shapes,
)
from spectrank.experiments.le2022training.problems import Forward, affine

NUM_INPUTS = 8
WIDTH = 6
_INNER = 7
_CHANNELS, _POSITIONS = 3, 6


def networks() -> tuple[Network, ...]:
    """Return the networks of the table.

    Returns:
        Convolutions into dense layers; two residual blocks with identity, diagonal and
        free skips; a convolution into a block with a free skip.
    """
    return (
        _convolutional(),
        *(_residual(skip) for skip in ("identity", "diagonal", "free")),
        _convolution_into_block(),
    )


def _convolutional() -> Network:
    shapes: Shapes = {
        **layer_shapes("conv1", _CHANNELS, 1, 3),
        **layer_shapes("conv2", WIDTH, _CHANNELS, 3),
        **layer_shapes("dense1", _INNER, 2 * WIDTH),
        **_head(_INNER),
    }

    def forward(inner: Activation, outer: Activation) -> Forward:
        def function(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            h = inner(convolve(params, "conv1", x.unsqueeze(2)))
            h = inner(convolve(params, "conv2", h, stride=2)).flatten(2)
            return affine(params, "head", outer(affine(params, "dense1", h)))[..., 0]

        return function

    junctions = (
        Junction(
            "conv-conv",
            "between two convolutions",
            ("conv1",),
            {"conv2": (WIDTH, _CHANNELS, 3)},
        ),
        Junction(
            "conv-dense",
            "between a convolution and a dense layer, columns gathered by channel",
            ("conv2",),
            {"dense1": (_INNER, WIDTH, 2)},
        ),
        Junction(
            "dense-dense",
            "between two dense layers",
            ("dense1",),
            {"head": (1, _INNER)},
        ),
    )
    words = f"two convolutions (stride 1, 2), dense layers {2 * WIDTH}-{_INNER}-1"
    return Network("conv", words, shapes, forward, junctions)


def _residual(skip: str) -> Network:
    shapes = {**layer_shapes("stem", WIDTH, NUM_INPUTS), **_head(WIDTH)}
    for block in ("1", "2"):
        shapes |= _block(block, skip)

    def forward(inner: Activation, outer: Activation) -> Forward:
        def function(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            h = outer(affine(params, "stem", x))
            for block in ("1", "2"):
                h = outer(_branches(params, block, skip, h, inner))
            return affine(params, "head", h)[..., 0]

        return function

    read = {"y2": (_INNER, WIDTH), "z2": (WIDTH, WIDTH)}
    inside = Junction(
        f"inside-block-{skip}",
        f"inside a residual block with {_ARTICLE[skip]} skip",
        ("y1",),
        {"u1": (WIDTH, _INNER)},
    )
    between = {
        "identity": (
            Junction(
                "across-identity",
                "between the last map of a block and the first of the next, across an "
                "identity skip",
                ("u1",),
                {"y2": (_INNER, WIDTH)},
            ),
            Junction(
                "stream",
                "of the residual stream as a whole, all maps that write into it "
                "against all that read from it",
                ("stem", "u1", "u2"),
                {"y1": (_INNER, WIDTH), "y2": (_INNER, WIDTH), "head": (1, WIDTH)},
            ),
        ),
        "diagonal": (
            Junction(
                "across-diagonal",
                "between two blocks with diagonal skips, the skips counted",
                ("u1",),
                {"y2": (_INNER, WIDTH)},
                (("s1",), ("s2",)),
            ),
        ),
        "free": (
            Junction(
                "between-free-blocks",
                "between two blocks with free skips",
                ("u1", "z1"),
                read,
            ),
            Junction(
                "dense-free-block",
                "between a dense layer and a block with a free skip",
                ("stem",),
                {"y1": read["y2"], "z1": read["z2"]},
            ),
            Junction(
                "free-block-dense",
                "between a block with a free skip and a dense layer",
                ("u2", "z2"),
                {"head": (1, WIDTH)},
            ),
        ),
    }[skip]
    words = (
        f"stem {NUM_INPUTS}-{WIDTH}, two blocks r(x) = sigma(U sigma(Y x) + S x) of "
        f"inner width {_INNER} with {_ARTICLE[skip]} skip S, head"
    )
    return Network(skip, words, shapes, forward, (inside, *between))


def _convolution_into_block() -> Network:
    num = _CHANNELS * _POSITIONS
    shapes = {
        **layer_shapes("conv", _CHANNELS, 1, 3),
        **_block("1", "free", num),
        **_head(WIDTH),
    }

    def forward(inner: Activation, outer: Activation) -> Forward:
        def function(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            h = outer(convolve(params, "conv", x.unsqueeze(2))).flatten(2)
            h = outer(_branches(params, "1", "free", h, inner))
            return affine(params, "head", h)[..., 0]

        return function

    junction = Junction(
        "conv-free-block",
        "between a convolution and a block with a free skip",
        ("conv",),
        {
            "y1": (_INNER, _CHANNELS, _POSITIONS),
            "z1": (WIDTH, _CHANNELS, _POSITIONS),
        },
    )
    words = "convolution, block r(x) = sigma(U sigma(Y x) + Z x), head"
    return Network("conv-free", words, shapes, forward, (junction,))


_ARTICLE = {
    "identity": "an identity",
    "diagonal": "a learned diagonal",
    "free": "a free",
}


def _branches(
    params: Mapping[str, Tensor], block: str, skip: str, h: Tensor, inner: Activation
) -> Tensor:
    """U sigma(Y x) + S x."""
    branch = affine(params, f"u{block}", inner(affine(params, f"y{block}", h)))
    if skip == "free":
        return branch + affine(params, f"z{block}", h)
    return branch + (h if skip == "identity" else h * params[f"s{block}"][:, None])


def _block(name: str, skip: str, num_inputs: int = WIDTH) -> Shapes:
    shapes = {
        **layer_shapes(f"y{name}", _INNER, num_inputs),
        **layer_shapes(f"u{name}", WIDTH, _INNER),
    }
    if skip == "free":
        shapes |= layer_shapes(f"z{name}", WIDTH, num_inputs)
    if skip == "diagonal":
        shapes[f"s{name}"] = (WIDTH,)
    return shapes


def _head(width: int) -> Shapes:
    # One output, and no bias: a threshold would spoil the separating hyperplane.
    return {"head.weight": (1, width)}
