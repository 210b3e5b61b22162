"""Cut laws: edges that every path crosses once have one sum of squares, but a constant.

A cut contains every bypassing edge. What a skip carries past it, biases included, is
part of it; no cut contains a fixed identity skip, but those before and after all of
them are cuts.

R  seeds    a, b  units
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from spectrank.experiments.le2022training.conservation import followed
from spectrank.experiments.le2022training.conservation.followed import (
    BROKEN,
    KINKS,
    SMOOTH,
    Case,
    FollowedSize,
    Quantity,
    squares,
)
from spectrank.experiments.le2022training.conservation.junctions import (
    Activation,
    Network,
)
from spectrank.experiments.le2022training.conservation.networks import (
    networks,
)
from spectrank.experiments.le2022training.problems import (
    Forward,
    Params,
    affine,
    chain,
    chain_forward,
)
from spectrank.experiments.papers import Part

NAME = "cut-laws"
_LEMMA = "Lemma 3"
_WIDTHS = (8, 7, 6, 1)
_INNER, _OUTER = 7, 6
_UNITS = ("linear", "relu")


def part(size: FollowedSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is integrated.

    Returns:
        The part.
    """
    return followed.part(NAME, cases(), size)


def cases() -> list[Case]:
    """Return the networks with their cuts, linear and with ReLU.

    Returns:
        A chain, dense skips, convolutions, residual blocks with three kinds of skip.
    """
    found = []
    for units in _UNITS:
        found += [_chain(units), _dense_skips(units)]
        found += [_of_table(net, units) for net in networks() if net.name in _CUTS]
    return found


def _cut(
    name: str,
    words: str,
    first: tuple[str, ...],
    second: tuple[str, ...],
    units: str,
    *,
    conserved: bool = True,
    place: str = _LEMMA,
    source: str = "",
) -> Quantity:
    """Sum of squares of one set of edges minus that of another."""
    smooth = SMOOTH if units == "linear" else KINKS
    return Quantity(
        f"{name}-{units}",
        f"{words}, {'linear' if units == 'linear' else 'ReLU'} units: the difference "
        f"of the sums of squares is {'conserved' if conserved else 'not conserved'}.",
        _difference(first, second),
        conserved,
        smooth if conserved else BROKEN,
        place if conserved else "",
        source,
    )


def _difference(
    first: tuple[str, ...], second: tuple[str, ...]
) -> Callable[[Params], Tensor]:
    return lambda params: squares(params, first) - squares(params, second)


def _chain(units: str) -> Case:
    depth = len(_WIDTHS) - 1
    quantities = tuple(
        _cut(
            f"dense-{i + 1}-{i + 2}",
            f"Layers {i + 1} and {i + 2} of a dense network",
            (f"{i}.weight",),
            (f"{i + 1}.weight",),
            units,
        )
        for i in range(depth - 1)
    )
    num_relus = depth - 1 if units == "relu" else 0
    words = f"dense network {'-'.join(map(str, _WIDTHS))} without biases"
    forward = chain_forward(depth, num_relus=num_relus)
    return Case(f"chain-{units}", words, chain(_WIDTHS), forward, quantities)


def _dense_skips(units: str) -> Case:
    """h1 = s(A x + a), h2 = s(B h1 + C x + b), f = v h2 + u h1."""
    shapes = {
        "a.weight": (_INNER, _WIDTHS[0]),
        "a.bias": (_INNER,),
        "b.weight": (_OUTER, _INNER),
        "c.weight": (_OUTER, _WIDTHS[0]),
        "b.bias": (_OUTER,),
        "u.weight": (1, _INNER),
        "v.weight": (1, _OUTER),
    }
    first = ("a.weight", "a.bias", "c.weight", "b.bias")
    middle = ("b.weight", "c.weight", "b.bias", "u.weight")
    last = ("v.weight", "u.weight")
    quantities = (
        _cut("skips-1-2", "The first two cuts of a network with dense skips", first,
             middle, units),
        _cut("skips-2-3", "The last two cuts of a network with dense skips", middle,
             last, units),
        _cut("skips-naive", "Two layers of a network with dense skips, what bypasses "
             "them left out", ("a.weight",), ("b.weight",), units, conserved=False,
             source="derived: without the bypassing edges they are no cuts; an earlier "
             "run of ours had 0.08"),
        _signs(units),
    )  # fmt: skip
    words = (
        "h = sigma(A x + a), g = sigma(B h + C x + b), f = v g + u h, "
        f"widths {_INNER} and {_OUTER}"
    )
    return Case(
        f"dense-skips-{units}", words, shapes, _skips_forward(units), quantities
    )


def _signs(units: str) -> Quantity:
    """A sign that changes drifts by 2, log10 of which is 0.3."""
    return Quantity(
        f"skips-signs-{units}",
        "On the way weights of the network with dense skips change their signs: the "
        f"laws need no stable signs, {'linear' if units == 'linear' else 'ReLU'} "
        "units.",
        lambda params: torch.cat([v.flatten(1) for v in params.values()], 1).sign(),
        False,
        0.0,
        source="derived: stable signs are a device of the paper's proof; an earlier "
        "run of ours had 9 flips; log10 of the largest change of a sign",
    )


def _skips_forward(units: str) -> Forward:
    act = _activation(units)

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        h = act(affine(params, "a", x))
        g = act(affine(params, "b", h) + affine(params, "c", x))
        return (affine(params, "v", g) + affine(params, "u", h))[..., 0]

    return forward


def _activation(units: str) -> Activation:
    return torch.relu if units == "relu" else (lambda x: x)


def _layer(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


_BLOCK_BIASES = ("y1.bias", "u1.bias", "y2.bias", "u2.bias")
# name, words, first, second, conserved, source, for the networks of the table.
_Spec = tuple[str, str, tuple[str, ...], tuple[str, ...], bool, str]
_CUTS: Mapping[str, tuple[_Spec, ...]] = {
    "conv": (
        ("conv-conv", "Two convolutions", _layer("conv1"), ("conv2.weight",), True, ""),
        ("conv-dense", "A convolution and a dense layer", _layer("conv2"),
         ("dense1.weight",), True, ""),
    ),
    "identity": (
        ("inside-identity", "The two maps of a block with an identity skip",
         _layer("y1"), ("u1.weight",), True, ""),
        ("around-identity", "The cuts before and after all identity skips, biases "
         "counted", (*_layer("stem"), *_BLOCK_BIASES), ("head.weight",), True,
         "derived: no path crosses either twice, and neither contains a skip"),
        ("around-identity-weights", "The same without the biases", ("stem.weight",),
         ("head.weight",), False, "derived: edges from the constant cross a cut too"),
        ("between-identity", "The maps before and after a place between two blocks "
         "with identity skips", _layer("u1"), ("y2.weight",), False,
         "derived: a fixed skip crosses there, which no cut contains"),
    ),
    "diagonal": (
        ("around-diagonal", "[U D] of one block and [Y; D] of the next",
         (*_layer("u1"), "s1"), ("y2.weight", "s2"), True, ""),
    ),
    "free": (
        ("around-free", "[U Z] of one block and [Y; Z] of the next",
         _layer("u1", "z1"), ("y2.weight", "z2.weight"), True, ""),
    ),
}  # fmt: skip
_OURS = frozenset({"around-identity"})


def _of_table(net: Network, units: str) -> Case:
    """A network of the table of matrix laws, looked at cut by cut."""
    act = _activation(units)
    quantities = tuple(
        _cut(
            name,
            words,
            first,
            second,
            units,
            conserved=conserved,
            place="" if name in _OURS else _LEMMA,
            source=source,
        )
        for name, words, first, second, conserved, source in _CUTS[net.name]
    )
    words = f"{net.words}, biases of size one half"
    forward = net.forward(act, act)
    return Case(f"{net.name}-{units}", words, net.shapes, forward, quantities)
