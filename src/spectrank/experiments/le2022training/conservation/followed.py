"""Quantities of networks followed along gradient flow: conserved, or not.

R  seeds    K  quantities    T  times
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.le2022training.claims import claim
from spectrank.experiments.le2022training.flows import flow
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.le2022training.problems import (
    Forward,
    Params,
    gaussian,
    separable,
)
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)

SMOOTH, KINKS, BROKEN = -5.0, -3.0, -2.5
"""log10 of the most that a conserved quantity drifts by, smooth units and ReLU, and of
the least that another one does."""
_ROUNDING = 1e-16
_AXES = Axes("time", "largest drift", "largest_drift", "linear", "log")


@final
@dataclass(frozen=True)
class Quantity:
    """A function of the parameters, and what the theory says of it.

    Attributes:
        name: In a claim's key.
        statement: Of the claim.
        of: Maps the parameters of every seed to (R, entries).
        conserved: Whether its drift is to stay below ``limit``, else above.
        limit: log10 of a drift.
        place: Of the paper; empty where the claim is ours.
        source: What is ours in it.
    """

    name: str
    statement: str
    of: Callable[[Params], Tensor]
    conserved: bool
    limit: float
    place: str = ""
    source: str = ""


def holds(
    name: str,
    statement: str,
    of: Callable[[Params], Tensor],
    limit: float,
    *,
    place: str = "",
    source: str = "",
) -> Quantity:
    """Return a quantity that is conserved.

    Args:
        name: In a claim's key.
        statement: Of the claim.
        of: To (R, entries).
        limit: log10 of the most that it drifts by.
        place: Of the paper; empty where the claim is ours.
        source: What is ours in it.

    Returns:
        The quantity.
    """
    return Quantity(name, statement, of, True, limit, place, source)


def fails(
    name: str, statement: str, of: Callable[[Params], Tensor], source: str
) -> Quantity:
    """Return a quantity that is not conserved; that it is not is always ours to say.

    Args:
        name: In a claim's key.
        statement: Of the claim.
        of: To (R, entries).
        source: Why not.

    Returns:
        The quantity.
    """
    return Quantity(name, statement, of, False, BROKEN, source=source)


@final
@dataclass(frozen=True)
class Case:
    """A network and quantities of it.

    Attributes:
        name: Of the network.
        words: In a protocol.
        shapes: Of its parameters, without the axis of seeds.
        forward: Its function.
        quantities: That are followed.
    """

    name: str
    words: str
    shapes: Mapping[str, tuple[int, ...]]
    forward: Forward
    quantities: tuple[Quantity, ...]


@final
@dataclass(frozen=True)
class FollowedSize:
    """How much is integrated.

    Attributes:
        num_seeds: R.
        num_samples: n.
        num_inputs: d.
        step: Of time.
        times: At which drifts are taken, multiples of the first.
    """

    num_seeds: int
    num_samples: int = 20
    num_inputs: int = 8
    step: float = 0.02
    times: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)


def part(name: str, cases: Sequence[Case], size: FollowedSize) -> Part:
    """Return the experiment that follows the quantities of several networks.

    Args:
        name: Of the part.
        cases: The networks.
        size: How much is integrated.

    Returns:
        The part.
    """
    return measured_part(
        name,
        partial(measure, name, cases),
        size,
        questions(name, cases, size),
        num_steps=len(cases),
        networks=[case.words for case in cases],
    )


def measure(
    name: str, cases: Sequence[Case], size: FollowedSize, seed: int, tick: Tick
) -> np.ndarray:
    """Integrate every network.

    Args:
        name: Of the part.
        cases: The networks.
        size: How much.
        seed: Base seed.
        tick: Called after every network.

    Returns:
        (R, K, T): largest absolute drift of an entry of a quantity since the start.
    """
    found = []
    for case in cases:
        found.append(drifts(name, case, size, seed))
        tick()
    return np.concatenate(found, 1)


def drifts(name: str, case: Case, size: FollowedSize, seed: int) -> np.ndarray:
    """Integrate one network.

    Args:
        name: Of the part.
        case: The network.
        size: How much.
        seed: Base seed.

    Returns:
        (R, K, T).
    """
    num, labels = size.num_seeds, (name, case.name)
    data = separable(seed, labels, num, size.num_inputs, size.num_samples)
    problem = replaced(data, forward=case.forward)
    params = gaussian(seed, labels, num, case.shapes)
    start = [quantity.of(params) for quantity in case.quantities]
    found = np.empty((num, len(start), len(size.times)))
    num_steps = round(size.times[0] / size.step)
    for t in range(len(size.times)):
        params = flow(problem, params, step=size.step, num_steps=num_steps)
        for k, quantity in enumerate(case.quantities):
            drift = (quantity.of(params) - start[k]).abs()
            found[:, k, t] = drift.reshape(num, -1).amax(1).numpy()
    return found


def questions(name: str, cases: Sequence[Case], size: FollowedSize) -> list[Question]:
    """Return what is asked: whether each quantity is conserved.

    Args:
        name: Of the part.
        cases: The networks.
        size: How much is integrated.

    Returns:
        The questions; what they read is (R, K, T).
    """
    found, first = [], 0
    for case in cases:
        lines = tuple(
            Line(quantity.name, size.times, _course(first + k), None)
            for k, quantity in enumerate(case.quantities)
        )
        for k, quantity in enumerate(case.quantities):
            asked = claim(
                f"{name}.{quantity.name}",
                quantity.statement,
                protocol=_protocol(case, size),
                quantity="log10_largest_drift",
                relation="at_most" if quantity.conserved else "at_least",
                expected=quantity.limit,
                place=quantity.place,
                source=quantity.source,
            )
            found.append(Question(asked, _logarithm(first + k), _AXES, lines))
        first += len(case.quantities)
    return found


def _protocol(case: Case, size: FollowedSize) -> str:
    return (
        f"{case.words}; {size.num_seeds} draws of the network and of "
        f"{size.num_samples} separable points in R^{size.num_inputs}; gradient flow of "
        f"the logistic loss by Runge-Kutta steps of {size.step:g} to time "
        f"{size.times[-1]:g}; log10 of the largest drift of an entry. Where ReLUs "
        "switch, a Runge-Kutta step errs by about 1e-4 of its own"
    )


def _logarithm(k: int) -> Estimates:
    return lambda y: np.log10(y[:, k].max(1).clip(_ROUNDING))


def _course(k: int) -> Estimates:
    return lambda y: np.asarray(y[:, k].clip(_ROUNDING))


def squares(params: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Sum of the squares of several parameters.

    Args:
        params: Of every seed.
        names: Which.

    Returns:
        (R, 1).
    """
    parts = [params[name].flatten(1).square().sum(1, keepdim=True) for name in names]
    total: Tensor = torch.stack(parts).sum(0)
    return total
