"""The table of matrix laws under gradient flow: conserved, by unit only, or not at all.

R  seeds    J  junctions    U  kinds of units    E  diagonal, off-diagonal    T  times
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.conservation.junctions import (
    Activation,
    Junction,
    Network,
)
from spectrank.experiments.le2022training.conservation.networks import (
    NUM_INPUTS,
    networks,
)
from spectrank.experiments.le2022training.flows import flow
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import gaussian, separable
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

NAME = "matrix-laws"
_LINEAR, _RELU, _INNER_RELU = range(3)
_UNITS = ("linear units", "ReLU units", "ReLU inside blocks alone")
_DIAGONAL, _OFF = range(2)
_PARTS = ("diagonal", "off the diagonal")
_AXES = Axes("time", "largest drift", "largest_drift", "linear", "log")
_CONSERVED, _KINKS, _BROKEN = -5.0, -3.0, -2.5
_INSIDE = ("2e-9 or less", "4e-5 or less", "0.05 to 0.4")
_EARLIER = {
    "conv-conv": ("6e-9", "5e-5", "0.35"),
    "conv-dense": ("3e-9", "2e-5", "0.2"),
    "dense-dense": ("3e-9", "8e-5", "1"),
    "inside-block-identity": _INSIDE,
    "inside-block-diagonal": _INSIDE,
    "inside-block-free": _INSIDE,
    "across-identity": ("0.2 to 1.1",) * 3,
    "across-diagonal": ("3e-10", "1e-4", ""),
    "between-free-blocks": ("5e-10", "2e-6", "0.4"),
}
"""Drifts of an earlier run of ours: linear units; ReLU, diagonal; off the diagonal."""
_ROUNDING = 1e-16
"""A smaller drift, such as that of units dead from the start, is set to it."""


@final
@dataclass(frozen=True)
class TableSize:
    """How much is integrated.

    Attributes:
        num_seeds: R.
        num_samples: n.
        step: Of time.
        times: At which drifts are taken, multiples of the first.
    """

    num_seeds: int
    num_samples: int = 20
    step: float = 0.02
    times: tuple[float, ...] = (1.5, 3.0, 4.5, 6.0)


def part(size: TableSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is integrated.

    Returns:
        The part.
    """
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=len(networks()),
        networks=[net.words for net in networks()],
    )


def measure(size: TableSize, seed: int, tick: Tick) -> np.ndarray:
    """Integrate every network with every kind of units.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every network.

    Returns:
        (R, J, U, E, T): largest absolute drift of an entry since the start, NaN for
        kinds of units that nothing is asked of.
    """
    found = []
    for net in networks():
        shape = (size.num_seeds, len(net.junctions), len(_UNITS))
        drifts = np.full((*shape, len(_PARTS), len(size.times)), np.nan)
        for kind in _kinds(net):
            drifts[:, :, kind] = _drifts(net, kind, size, seed)
        found.append(drifts)
        tick()
    return np.concatenate(found, 1)


def _kinds(net: Network) -> list[int]:
    return sorted({row.units for each in net.junctions for row in _rows(each)})


def _drifts(net: Network, kind: int, size: TableSize, seed: int) -> np.ndarray:
    """(R, J, E, T)."""
    num, names = size.num_seeds, (NAME, net.name)
    data = separable(seed, names, num, NUM_INPUTS, size.num_samples)
    problem = replaced(data, forward=net.forward(*_activations(kind)))
    params = gaussian(seed, names, num, net.shapes)
    start = [junction.values(params) for junction in net.junctions]
    found = np.empty((num, len(start), len(_PARTS), len(size.times)))
    num_steps = round(size.times[0] / size.step)
    for t in range(len(size.times)):
        params = flow(problem, params, step=size.step, num_steps=num_steps)
        for j, junction in enumerate(net.junctions):
            found[:, j, :, t] = _largest(junction.values(params) - start[j])
    return found


def _activations(kind: int) -> tuple[Activation, Activation]:
    def linear(x: Tensor) -> Tensor:
        return x

    inner = linear if kind == _LINEAR else torch.relu
    return inner, torch.relu if kind == _RELU else linear


def _largest(drift: Tensor) -> np.ndarray:
    """(R, E)."""
    diagonal = drift.diagonal(dim1=1, dim2=2)
    off = drift - diagonal.diag_embed()
    return torch.stack(
        [diagonal.abs().amax(1), off.abs().flatten(1).amax(1)], 1
    ).numpy()


def questions(size: TableSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is integrated.

    Returns:
        The questions; what they read is (R, J, U, E, T).
    """
    found = []
    index = 0
    for net in networks():
        for junction in net.junctions:
            found += [
                _question(row, junction, net, index, size) for row in _rows(junction)
            ]
            index += 1
    return found


@final
@dataclass(frozen=True)
class _Row:
    """An entry of the table.

    Attributes:
        units: Index of the kind of units.
        parts: Indices of what is looked at: the larger drift counts.
        limit: log10 of the limit.
        conserved: Whether the drift is to stay below.
        place: Of the paper; empty where the entry is ours.
        source: What is ours in it.
    """

    units: int
    parts: tuple[int, ...]
    limit: float
    conserved: bool
    place: str = ""
    source: str = ""


def _rows(junction: Junction) -> Iterator[_Row]:
    """What the theory says of a junction."""
    both, name = (_DIAGONAL, _OFF), junction.name
    if name == "across-identity":
        ours = "derived: the skip carries what no entry of either map counts"
        yield _Row(_LINEAR, both, _BROKEN, False, source=ours)
        yield _Row(_RELU, (_DIAGONAL,), _BROKEN, False, source=ours)
        return
    if name == "across-diagonal":
        ours = "derived: a diagonal skip is no full junction, so that only the law of "
        ours += "each unit holds"
        yield _Row(_LINEAR, (_DIAGONAL,), _CONSERVED, True, "Lemma 2", ours)
        yield _Row(_LINEAR, (_OFF,), _BROKEN, False, source=ours)
        yield _Row(_RELU, (_DIAGONAL,), _KINKS, True, "Lemma 2", ours)
        return
    place, ours = "Theorem 1", ""
    if name == "stream":
        place = ""
        ours = "derived: invariance of the stream under a common change of its basis"
    yield _Row(_LINEAR, both, _CONSERVED, True, place, ours)
    yield _Row(_RELU, (_DIAGONAL,), _KINKS, True, place and "Lemma 2", ours)
    yield _Row(_RELU, (_OFF,), _BROKEN, False, place and "Lemma 4", ours)
    if name in {"between-free-blocks", "stream"}:
        linear = "derived: the law is local, and its units are linear"
        yield _Row(_INNER_RELU, both, _KINKS, True, place, linear)


def _question(
    row: _Row, junction: Junction, net: Network, index: int, size: TableSize
) -> Question:
    where = "" if len(row.parts) == 2 else f" {_PARTS[row.parts[0]]}"
    units = ("linear", "relu", "inner-relu")[row.units]
    suffix = "" if len(row.parts) == 2 else ("-diagonal", "-off")[row.parts[0]]
    name = f"{NAME}.{junction.name}-{units}{suffix}"
    asked = claim(
        name,
        f"Writes minus reads {junction.words}, {_UNITS[row.units]}:{where or ' all'} "
        f"entries are {'conserved' if row.conserved else 'not conserved'}.",
        protocol=f"{net.words}, biases of size one half; {size.num_seeds} draws of the "
        f"network and of {size.num_samples} separable points in R^{NUM_INPUTS}; "
        "gradient flow of the logistic loss by Runge-Kutta steps of "
        f"{size.step:g} to time {size.times[-1]:g}; log10 of the largest drift of an "
        "entry. Where ReLUs switch, a Runge-Kutta step errs by about 1e-4 of its own",
        quantity="log10_largest_drift",
        relation="at_most" if row.conserved else "at_least",
        expected=row.limit,
        place=row.place,
        source="; ".join(filter(None, [row.source, _earlier(row, junction.name)])),
    )
    return Question(
        asked,
        _logarithm(index, row.units, row.parts),
        _AXES,
        tuple(
            Line(
                f"{_UNITS[units]}, {_PARTS[entries]}",
                size.times,
                _course(index, units, entries),
                None,
            )
            for units in (_LINEAR, _RELU)
            for entries in (_DIAGONAL, _OFF)
        ),
    )


def _earlier(row: _Row, name: str) -> str:
    if row.units == _INNER_RELU or name not in _EARLIER:
        return ""
    if row.units == _LINEAR:
        found = _EARLIER[name][0] if row.parts[0] == _DIAGONAL else ""
    else:
        found = _EARLIER[name][1 + row.parts[0]]
    return f"an earlier run of ours had {found}" if found else ""


def _logarithm(junction: int, units: int, parts: tuple[int, ...]) -> Estimates:
    return lambda y: np.log10(
        y[:, junction, units][:, list(parts)].max((1, 2)).clip(_ROUNDING)
    )


def _course(junction: int, units: int, entries: int) -> Estimates:
    return lambda y: np.asarray(y[:, junction, units, entries])
