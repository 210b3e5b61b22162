r"""Laws that look right and are not, each beside the one that holds in its place.

A unit needs sigma'(z) z = k sigma(z) for its law; biases are edges; a normalisation has
laws of its own. Convolutions are in `channels`.

R  seeds    n  samples    a, b  units
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.experiments.le2022training.conservation import channels, followed
from spectrank.experiments.le2022training.conservation.followed import (
    KINKS,
    SMOOTH,
    Case,
    FollowedSize,
    fails,
    holds,
)
from spectrank.experiments.le2022training.conservation.junctions import (
    Activation,
    layer_shapes,
)
from spectrank.experiments.le2022training.problems import Forward, Params, affine
from spectrank.experiments.papers import Part

NAME = "false-laws"
_INPUTS, _UNITS = 8, 6
_EPS = 1e-5
_GATED = "derived: the branch is linear in what enters it, the gate is not"


def part(size: FollowedSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is integrated.

    Returns:
        The part.
    """
    return followed.part(NAME, cases(), size)


def cases() -> list[Case]:
    """Return the networks with the laws that they break.

    Returns:
        Activations, a gated unit, a batch normalisation, biases, convolutions.
    """
    return [
        _units("gelu", functional.gelu),
        _units("tanh", torch.tanh),
        _units("squared-relu", lambda z: z.relu().square()),
        _gated(),
        _normalised(),
        _biases("relu", torch.relu),
        _biases("linear", lambda z: z),
        *channels.cases(),
    ]


def unit_law(
    params: Mapping[str, Tensor],
    write: str,
    read: str,
    *,
    degree: int = 1,
    bias: bool = True,
) -> Tensor:
    """In minus degree times out of the units between two dense layers.

    Args:
        params: Of every seed.
        write: Layer that enters the units.
        read: Layer that leaves them.
        degree: k.
        bias: Whether biases count.

    Returns:
        (R, units).
    """
    entering = params[f"{write}.weight"].square().sum(2)
    if bias:
        entering = entering + params[f"{write}.bias"].square()
    return entering - degree * params[f"{read}.weight"].square().sum(1)


def _two_layers(act: Activation) -> Forward:
    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return affine(params, "head", act(affine(params, "first", x)))[..., 0]

    return forward


def _units(name: str, act: Activation) -> Case:
    """In minus out of every unit, and for squared ReLU in minus twice out."""
    words = f"two layers {_INPUTS}-{_UNITS}-1 with {name}, biases of size one half"
    found = [
        fails(
            f"vertex-{name}",
            f"Across {name}, in minus out of a unit is not conserved.",
            lambda p: unit_law(p, "first", "head"),
            "derived: sigma'(z) z is not sigma(z)",
        )
    ]
    if name == "squared-relu":
        found.append(
            holds(
                f"vertex-{name}-degree",
                "Across a squared ReLU, in minus twice out of a unit is conserved.",
                lambda p: unit_law(p, "first", "head", degree=2),
                KINKS,
                source="derived: sigma'(z) z = 2 sigma(z)",
            )
        )
    shapes = {**layer_shapes("first", _UNITS, _INPUTS), "head.weight": (1, _UNITS)}
    return Case(name, words, shapes, _two_layers(act), tuple(found))


def _gated() -> Case:
    """silu(G x) * (U x): a law of the linear branch alone."""

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        gate = functional.silu(affine(params, "gate", x))
        return affine(params, "head", gate * affine(params, "up", x))[..., 0]

    shapes = {
        **layer_shapes("gate", _UNITS, _INPUTS),
        **layer_shapes("up", _UNITS, _INPUTS),
        "head.weight": (1, _UNITS),
    }
    return Case(
        "gated",
        f"gated units silu(G x) * (U x), {_INPUTS}-{_UNITS}-1, biases of size one half",
        shapes,
        forward,
        (
            holds(
                "gated-up",
                "In minus out of the linear branch of a gated unit is conserved.",
                lambda p: unit_law(p, "up", "head"),
                SMOOTH,
                source=_GATED,
            ),
            fails(
                "gated-gate",
                "That of the gate is not.",
                lambda p: unit_law(p, "gate", "head"),
                _GATED,
            ),
        ),
    )


def _normalised() -> Case:
    """Batch normalisation in training mode between two layers, all samples a batch."""

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        z = affine(params, "first", x)
        variance = z.var(1, unbiased=False, keepdim=True)
        h = (z - z.mean(1, keepdim=True)) / (variance + _EPS).sqrt()
        h = h * params["gamma"][:, None] + params["beta"][:, None]
        return affine(params, "head", h.relu())[..., 0]

    def affine_law(params: Mapping[str, Tensor]) -> Tensor:
        written = params["gamma"].square() + params["beta"].square()
        return written - params["head.weight"].square().sum(1)

    shapes = {
        **layer_shapes("first", _UNITS, _INPUTS),
        "gamma": (_UNITS,),
        "beta": (_UNITS,),
    }
    return Case(
        "normalised",
        f"layer {_INPUTS}-{_UNITS}, batch normalisation in training mode over all "
        f"samples (eps {_EPS:g}), ReLU, head",
        {**shapes, "head.weight": (1, _UNITS)},
        forward,
        (
            fails(
                "through-normalisation",
                "In minus out of a unit is not conserved through a batch normalisation "
                "in training mode.",
                lambda p: unit_law(p, "first", "head"),
                "derived: what enters a unit is scaled away",
            ),
            holds(
                "affine",
                "gamma^2 + beta^2 minus out is.",
                affine_law,
                KINKS,
                source="derived: gamma and beta are the edges that enter the unit",
            ),
            holds(
                "scale",
                "So is the squared norm of the weights before it, up to eps.",
                lambda p: p["first.weight"].square().sum(2),
                -2.0,
                source="derived: the function does not change under their rescaling, "
                "as far as eps is small against the variance",
            ),
        ),
    )


def gap(
    params: Mapping[str, Tensor], write: str, read: str, *, bias: bool = True
) -> Tensor:
    """Writes minus reads of the units between two dense layers, as a matrix.

    Args:
        params: Of every seed.
        write: Layer that enters the units.
        read: Layer that leaves them.
        bias: Whether that of the first counts.

    Returns:
        (R, units, units).
    """
    w, v = params[f"{write}.weight"], params[f"{read}.weight"]
    found: Tensor = w @ w.mT - v.mT @ v
    if bias:
        b = params[f"{write}.bias"]
        found = found + b[:, :, None] * b[:, None]
    return found


def _biases(units: str, act: Activation) -> Case:
    """Laws with the biases that they need, and without."""
    linear = units == "linear"
    kind = "matrix" if linear else "vertex"
    place = "Theorem 1" if linear else "Lemma 2"

    def law(params: Params, bias: bool) -> Tensor:
        if linear:
            return gap(params, "first", "head", bias=bias)
        return unit_law(params, "first", "head", bias=bias)

    return Case(
        f"biases-{units}",
        f"two layers {_INPUTS}-{_UNITS}-1, {units} units, biases of size one half",
        {**layer_shapes("first", _UNITS, _INPUTS), "head.weight": (1, _UNITS)},
        _two_layers(act),
        (
            holds(
                f"{kind}-with-biases",
                f"The {kind} law of {units} units holds with biases as edges.",
                lambda p: law(p, True),
                SMOOTH if linear else KINKS,
                place=place,
            ),
            fails(
                f"{kind}-without-biases",
                f"The {kind} law of {units} units does not hold with biases left out.",
                lambda p: law(p, False),
                "derived: a bias is an edge from a constant input",
            ),
        ),
    )
