"""The networks of the table of matrix laws, and the laws at their junctions.

Convolutions are one-dimensional, which changes no law: positions only multiply the
number of columns. Every layer but the last has a bias of size one half, as zero biases
hide what a law owes to them.

R  seeds    n  samples    o, c  channels    t  positions    k  places of a kernel
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.le2022training.problems import Forward, affine
from spectrank.invariance.laws import GramTerm, Law, SquareTerm, evaluate

Activation = Callable[[Tensor], Tensor]
Shapes = dict[str, tuple[int, ...]]
NUM_INPUTS = 8
WIDTH = 6
_INNER = 7
_CHANNELS, _POSITIONS = 3, 6


@final
@dataclass(frozen=True)
class Junction:
    """Maps that write into the same units, and maps that read from them.

    Attributes:
        name: In a claim's key.
        words: In a claim's statement.
        writes: Layers whose outputs are added there, biases included.
        reads: Layer to the shape of its weight in which axis 1 is that of the units.
        diagonals: Learned diagonal skips that end there and that begin there; they
            count in the law of a unit.
    """

    name: str
    words: str
    writes: tuple[str, ...]
    reads: Mapping[str, tuple[int, ...]]
    diagonals: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def values(self, params: Mapping[str, Tensor]) -> Tensor:
        """Writes minus reads, W W^T + b b^T of those and W^T W of these.

        Args:
            params: Of every seed.

        Returns:
            (R, units, units).
        """
        laws = self.laws({k: v.shape[1:] for k, v in params.items()})
        found = []
        for r in range(len(next(iter(params.values())))):
            own = {k: v[r] for k, v in params.items()}
            total = evaluate(laws[0], own)
            for law in laws[1:]:
                total = total + evaluate(law, own).diag()
            found.append(total)
        return torch.stack(found)

    def laws(self, shapes: Mapping[str, tuple[int, ...]]) -> list[Law]:
        """Return the matrix law and, with diagonal skips, what a unit's law adds.

        Args:
            shapes: Of the parameters of one seed.

        Returns:
            One law or two.
        """
        n = shapes[f"{self.writes[0]}.weight"][0]
        terms = []
        for name in self.writes:
            for parameter in (f"{name}.weight", f"{name}.bias"):
                view: tuple[int, ...] = (n, math.prod(shapes[parameter]) // n)
                terms.append(GramTerm(parameter, view, (0,), None, 1.0))
        terms += [
            GramTerm(f"{name}.weight", shape, (1,), None, -1.0)
            for name, shape in self.reads.items()
        ]
        matrix = Law(
            self.name, "matrix", "gram", tuple(terms), (n, n), 0, "", self.words
        )
        every = np.arange(n)
        squares = tuple(
            SquareTerm(name, (n,), (0,), every, every, np.full(n, sign))
            for names, sign in zip(self.diagonals, (1.0, -1.0), strict=True)
            for name in names
        )
        if not squares:
            return [matrix]
        skips = Law("skips", "vertex", "squares", squares, (n,), 0, "", self.words)
        return [matrix, skips]


@final
@dataclass(frozen=True)
class Network:
    """A network of the table.

    Attributes:
        name: Such as ``conv``.
        words: In a protocol.
        shapes: Of its parameters, without the axis of seeds.
        forward: Maps the activations after an inner and after an outer layer of a
            block to the function.
        junctions: At which laws are looked at.
    """

    name: str
    words: str
    shapes: Shapes
    forward: Callable[[Activation, Activation], Forward]
    junctions: tuple[Junction, ...]


def convolve(
    params: Mapping[str, Tensor], name: str, h: Tensor, *, stride: int = 1
) -> Tensor:
    """Apply a one-dimensional convolution of every seed.

    Args:
        params: With ``name.weight`` (R, o, c, k) and, or not, ``name.bias`` (R, o).
        name: Of the layer.
        h: (R, n, c, t).
        stride: Step between positions.

    Returns:
        (R, n, o, t').
    """
    weight = params[f"{name}.weight"]
    windows = h.unfold(3, weight.shape[3], stride)
    z = torch.einsum("rnctk,rock->rnot", windows, weight)
    bias = params.get(f"{name}.bias")
    return z if bias is None else z + bias[:, None, :, None]


def layer_shapes(name: str, *shape: int) -> Shapes:
    """Return the shapes of a layer with a bias.

    Args:
        name: Of the layer.
        *shape: Of its weight.

    Returns:
        ``name.weight`` and ``name.bias`` to their shapes.
    """
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


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
