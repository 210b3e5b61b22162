"""What a fleet is asked to do, checked once and broadcast to all members."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.train.fleet.coefficients import PerMember, per_member
from spectrank.train.fleet.optimizers import Optimizer
from spectrank.train.fleet.progress import Stopping

Schedule = Callable[[int], float]
"""From the number of updates done to a factor of the learning rate."""


@dataclass(frozen=True)
class Settings:
    """Settings with one entry a member.

    Attributes:
        optimizer: Rule of the updates.
        coefficients: Name to (M,) numbers of the rule.
        factors: (steps,) factors of the learning rate.
        clip_norm: (M,) limits of the gradient's norm; None for none at all.
        stopping: When members stop.
        batch_size: Samples a batch.
        seeds: Of the batch order; None where every batch is the whole set.
        dataset: Which data set each member learns; None for one.
        arms: Labels.
    """

    optimizer: Optimizer
    coefficients: Mapping[str, np.ndarray]
    factors: np.ndarray
    clip_norm: np.ndarray | None
    stopping: Stopping
    batch_size: int
    seeds: tuple[int, ...] | None
    dataset: tuple[int, ...] | None
    arms: tuple[str, ...] | None

    @property
    def used(self) -> frozenset[str]:
        """Coefficients that are not 0 for every member."""
        return frozenset(n for n, values in self.coefficients.items() if values.any())


def check_optimizer(optimizer: Optimizer) -> Optimizer:
    """Assert that an optimiser is one of ours.

    Args:
        optimizer: Anything.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: It is not.
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            "a fleet's optimizer is spectrank.train's SGD or Adam, got "
            f"{type(optimizer).__name__}; give its numbers to one of these"
        )
    return optimizer


def positive(name: str, number: int) -> int:
    """Assert that a count is one.

    Args:
        name: For the message.
        number: Anything.

    Returns:
        The same.

    Raises:
        DomainError: It is below 1 or no integer.
    """
    if not isinstance(number, int) or number < 1:
        raise DomainError(
            f"{name} must be an integer of at least 1, got {number!r}; correct it"
        )
    return number


def check_members(template: nn.Module, parameters: Mapping[str, Tensor]) -> int:
    """Assert that stacked parameters fit a template.

    Args:
        template: One member.
        parameters: Name to (M, *shape).

    Returns:
        M.

    Raises:
        ShapeError: Names, shapes or numbers of members differ.
        DomainError: Every parameter is frozen.
        ArgumentTypeError: A parameter is neither float32 nor float64, or they differ.
    """
    if not isinstance(parameters, Mapping):
        raise ArgumentTypeError(
            "parameters map names to stacked tensors, got "
            f"{type(parameters).__name__}; pass stack(modules)"
        )
    wanted = {name: tuple(p.shape) for name, p in template.named_parameters()}
    if not wanted or set(parameters) != set(wanted):
        odd = sorted(set(parameters) ^ set(wanted))
        raise ShapeError(
            "stacked parameters have the names of template.named_parameters(), got "
            f"{len(parameters)} for {len(wanted)} of the template"
            f"{', differing in ' + ', '.join(odd[:3]) if odd else ''}; "
            "make them with stack(modules)"
        )
    num_members = next(iter(parameters.values())).shape[:1].numel()
    for name, shape in wanted.items():
        got = tuple(parameters[name].shape)
        if got != (num_members, *shape) or not num_members:
            raise ShapeError(
                f"stacked parameters are (members, *shape), {name} is {got} for "
                f"{num_members} members of {shape}; make them with stack(modules)"
            )
    if not any(p.requires_grad for p in template.parameters()):
        raise DomainError(
            "a fleet trains at least one parameter of its template, got "
            f"{len(wanted)} with requires_grad=False; set it to True where it learns"
        )
    kinds = {(p.dtype, p.device) for p in parameters.values()}
    if len(kinds) != 1 or next(iter(kinds))[0].itemsize not in {4, 8}:
        raise ArgumentTypeError(
            "parameters of a fleet are all float32 or all float64, on one device, got "
            f"{', '.join(sorted(f'{d} on {v}' for d, v in kinds))}; convert them"
        )
    return num_members


def read_stopping(
    max_steps: int | Sequence[int],
    target_loss: PerMember | None,
    smoothing: float,
    record_every: int,
    num_members: int,
) -> Stopping:
    """Validate when members stop.

    Args:
        max_steps: Most updates, for all or for each member.
        target_loss: Smoothed loss to fall below, if any.
        smoothing: Weight of the past.
        record_every: Steps between losses that are kept.
        num_members: M.

    Returns:
        The rules.

    Raises:
        DomainError: A number lies outside its range.
    """
    steps = per_member("max_steps", np.asarray(max_steps), num_members)
    if (steps < 0).any() or (steps != np.floor(steps)).any():
        raise DomainError(
            f"max_steps must be a whole number of at least 0, got {max_steps!r:.80}; "
            "give the number of updates"
        )
    if not 0.0 <= smoothing < 1.0:
        raise DomainError(
            f"smoothing must lie in [0, 1), got {smoothing}; 0 takes each batch's "
            "loss as it is"
        )
    if record_every < 1:
        raise DomainError(
            f"record_every must be at least 1, got {record_every}; 1 keeps every step"
        )
    target = -math.inf if target_loss is None else target_loss
    return Stopping(
        steps.astype(np.int64),
        per_member("target_loss", target, num_members),
        smoothing,
        record_every,
    )


def read_factors(schedule: Schedule | None, num_steps: int) -> np.ndarray:
    """Tabulate a schedule.

    Args:
        schedule: From the number of updates done to a factor; None for 1.
        num_steps: Updates that may be taken.

    Returns:
        (num_steps,) factors.

    Raises:
        DomainError: A factor is negative or not finite.
    """
    if schedule is None:
        return np.ones(num_steps)
    factors = np.array([float(schedule(step)) for step in range(num_steps)])
    wrong = ~(np.isfinite(factors) & (factors >= 0))
    if wrong.any():
        step = int(wrong.argmax())
        raise DomainError(
            "a schedule gives finite factors of at least 0, got "
            f"{factors[step]} at step {step}; correct the schedule"
        )
    return factors


def read_clip(clip_norm: PerMember | None, num_members: int) -> np.ndarray | None:
    """Validate limits of the gradient's norm.

    Args:
        clip_norm: For all or for each member; ``inf`` for none.
        num_members: M.

    Returns:
        (M,) limits, or None.

    Raises:
        DomainError: A limit is not positive.
    """
    if clip_norm is None:
        return None
    limits = per_member("clip_norm", clip_norm, num_members)
    if not (limits > 0).all():
        raise DomainError(
            f"clip_norm must be positive, got {limits.min()}; use inf for a member "
            "that is not clipped"
        )
    return limits


def read_labels(name: str, values: Sequence[object] | None, num_members: int) -> None:
    """Assert that a list has one entry a member.

    Args:
        name: For the message.
        values: The list, or None.
        num_members: M.

    Raises:
        ShapeError: It has not.
    """
    if values is not None and len(values) != num_members:
        raise ShapeError(
            f"{name} has one entry for each of the {num_members} members, got "
            f"{len(values)}; repeat or cut the list"
        )


def read_seeds(
    seeds: Sequence[int] | None, num_members: int, *, whole: bool
) -> tuple[int, ...] | None:
    """Validate the seeds of the batch order.

    Args:
        seeds: One a member.
        num_members: M.
        whole: Whether every batch is the whole set.

    Returns:
        The seeds, or None where nothing is drawn and none were given.

    Raises:
        DomainError: They are needed and absent, or one is out of range.
    """
    read_labels("seeds", seeds, num_members)
    if seeds is None:
        if whole:
            return None
        raise DomainError(
            "batches smaller than the data are drawn by a seed a member, got "
            "seeds=None; give one seed for each member, such as range(num_members)"
        )
    found = tuple(operator.index(seed) for seed in seeds)
    wrong = [seed for seed in found if not 0 <= seed < 2**63]
    if wrong:
        raise DomainError(
            f"a seed must lie in [0, 2**63), got {wrong[0]}; choose another"
        )
    return found
