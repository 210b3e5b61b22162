r"""Gradient flow by Runge-Kutta steps, in time and in the logarithm of the risk.

The flow of log R has the orbits of the flow of R, at a speed at which a risk of 1e-100
is a few thousand steps away. Its step h obeys

    h = min(r ||w|| / ||g||, c (||w|| / L)^2 / max(m, m^2)),     g = grad log R,

L the degree of homogeneity, m the largest |m_i| of the samples that pull, those within
30 of the least: the normalised problem becomes stiff as margins grow, as its curvature
goes with (L m / ||w||)^2, and a fixed relative step oscillates. Where margins are alike
||g|| is L m / ||w|| and a step lowers log R by c. Where margins of single samples are
steeper than that, which the rule does not see, the curvature that the steps before met
bounds the step of a smooth network.
Source (derived): tests/experiments/le2022training, drift of conserved quantities.

R  seeds
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.experiments.le2022training.problems import Params, Problem, Slope, slope

# A sample with so much more margin than another weighs 1e-13 of it.
_FAR = 30.0
# A stiff direction shows only while it is excited: what it showed is forgotten slowly.
_KEPT = 0.995
_Field = Callable[[Mapping[str, Tensor]], Params]


def moved(
    params: Mapping[str, Tensor], by: Mapping[str, Tensor], size: Tensor
) -> Params:
    """Return w + size v, seed by seed.

    Args:
        params: w.
        by: v.
        size: (R,).

    Returns:
        The sum.
    """
    return {
        k: w + size.view(-1, *[1] * (w.ndim - 1)) * by[k] for k, w in params.items()
    }


def norm(params: Mapping[str, Tensor]) -> Tensor:
    """Norm of all parameters together.

    Args:
        params: Or gradients.

    Returns:
        (R,).
    """
    each = [torch.linalg.vector_norm(v.flatten(1), dim=1) for v in params.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return total


def rk4(
    field: _Field, params: Mapping[str, Tensor], size: Tensor
) -> tuple[Params, Tensor]:
    """One step of the classical Runge-Kutta method of order 4.

    Args:
        field: The velocity.
        params: Where from.
        size: (R,) step.

    Returns:
        Where to, and (R,) how much the velocity changed over half the step, relative to
        itself and per unit of the step: the curvature that the step has met.
    """
    first = field(params)
    second = field(moved(params, first, size / 2))
    change = norm({k: second[k] - first[k] for k in first}) / norm(first)
    third = field(moved(params, second, size / 2))
    fourth = field(moved(params, third, size))
    mean = {
        k: (first[k] + 2 * second[k] + 2 * third[k] + fourth[k]) / 6 for k in params
    }
    met = 2 * change / torch.where(size > 0, size, torch.inf)
    return moved(params, mean, size), met


def flow(problem: Problem, params: Params, *, step: float, num_steps: int) -> Params:
    """Follow gradient flow of the risk for the time ``step * num_steps``.

    Args:
        problem: The network on its data.
        params: At the start; not changed.
        step: Of time.
        num_steps: How many.

    Returns:
        Parameters at the end.
    """
    sizes = torch.full((len(problem.inputs),), step, dtype=torch.float64)

    def field(at: Mapping[str, Tensor]) -> Params:
        return {k: -g for k, g in slope(problem, at).of_risk().items()}

    for _ in range(num_steps):
        params, _ = rk4(field, params, sizes)
    return params


@final
@dataclass(frozen=True)
class Pace:
    """Steps of the flow of log R.

    Attributes:
        degree: L, the degree of homogeneity.
        fall: c, by how much log R falls in a step, about.
        relative: r, largest relative change of the parameters in a step.
        most_steps: Given up after so many.
        stiff: Most of the product of step and curvature met, of which the method is
            stable up to 2.78; None for none, as at kinks the velocity jumps.
    """

    degree: int
    fall: float = 0.5
    relative: float = 0.02
    most_steps: int = 10_000
    stiff: float | None = None


def scaled_flow(
    problem: Problem, params: Params, log_risks: Sequence[float], pace: Pace
) -> list[Params]:
    """Follow the flow until the risk has fallen to each of several values.

    Every seed stops at its own first step at or below a value, so that all are seen at
    the same risk; the last step overshoots by at most about ``pace.fall``.

    Args:
        problem: The network on its data.
        params: At the start; not changed.
        log_risks: Natural logarithms of the risks, descending.
        pace: Of the steps.

    Returns:
        Parameters at each of them; NaN of a seed that did not get there, as of a ReLU
        network in which all units are dead on a sample.
    """
    current = {k: v.clone() for k, v in params.items()}
    found: list[Params] = []

    def field(at: Mapping[str, Tensor]) -> Params:
        return {k: -g for k, g in slope(problem, at).gradients.items()}

    met = torch.zeros(len(problem.inputs), dtype=torch.float64)
    for target in log_risks:
        for _ in range(pace.most_steps):
            here = slope(problem, current)
            running = here.log_risk > target
            if not bool(running.any()):
                break
            size = _step_size(here, norm(current), pace)
            if pace.stiff is not None:
                size = torch.minimum(size, pace.stiff / met.clamp(min=1e-300))
            current, new = rk4(field, current, torch.where(running, size, 0.0))
            met = torch.maximum(new.nan_to_num(0.0), _KEPT * met)
        late = slope(problem, current).log_risk > target
        current = {
            k: v.masked_fill(late.view(-1, *[1] * (v.ndim - 1)), torch.nan)
            for k, v in current.items()
        }
        found.append({k: v.clone() for k, v in current.items()})
    return found


def _step_size(here: Slope, size: Tensor, pace: Pace) -> Tensor:
    """(R,) steps of the flow of log R."""
    least = here.margins.amin(1).clamp(min=0.0)
    pulling = torch.minimum(here.margins.abs().amax(1), least + _FAR)
    curvature = torch.maximum(pulling, pulling.square()).clamp(min=1e-300)
    stable = pace.fall * (size / pace.degree).square() / curvature
    return torch.minimum(pace.relative * size / norm(here.gradients), stable)
