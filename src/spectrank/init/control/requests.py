"""What a user asks for, checked before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real

from torch import Tensor, nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    SpectrankError,
)
from spectrank.linalg.ensembles.requests import check_stable_rank
from spectrank.linalg.haar import check_count
from spectrank.model import unmatched_patterns
from spectrank.model.iterate import weight_names


def target_rank(stable_rank: object, fraction: object, m: int, n: int) -> float:
    """Return the target of an (m, n) matrix from one of two ways to state it.

    Args:
        stable_rank: Absolute, in [1, min(m, n)]; None where ``fraction`` is given.
        fraction: Share of min(m, n) in (0, 1]; a target below 1 is raised to 1, which
            is the smallest there is.
        m: Number of rows.
        n: Number of columns.

    Returns:
        The stable rank.

    Raises:
        ArgumentTypeError: If ``fraction`` is no number.
        DomainError: If none or both are given, or one is out of its range.
    """
    if (stable_rank is None) == (fraction is None):
        raise DomainError(
            "a target is stated once, as stable_rank= or as fraction= of min(m, n), "
            f"got stable_rank={stable_rank!r} and fraction={fraction!r}; give one"
        )
    if fraction is None:
        return check_stable_rank(stable_rank, m, n)
    if isinstance(fraction, bool) or not isinstance(fraction, Real):
        raise ArgumentTypeError(
            f"fraction is a number in (0, 1], got {fraction!r}; e.g. fraction=0.25"
        )
    if not 0.0 < float(fraction) <= 1.0:
        raise DomainError(
            f"fraction must lie in (0, 1], got {fraction}; it is the share of "
            "min(m, n), the largest stable rank of the matrix"
        )
    return max(1.0, float(fraction) * min(m, n))


def needed_weight(module: nn.Module, name: str) -> Tensor:
    """Return the parameter of a layer that is to be normalised.

    Args:
        module: As given.
        name: Of the parameter.

    Returns:
        It, as the layer uses it now.

    Raises:
        ArgumentTypeError: If the module is none, or has no tensor of that name.
        DomainError: If it holds no real numbers.
    """
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(
            f"stable_rank_norm changes a torch.nn.Module, got {type(module).__name__}; "
            "pass the layer, not its weight"
        )
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ArgumentTypeError(
            f"the layer must have a parameter of the name given, "
            f"{type(module).__name__} has no {name!r}; name it by name="
        )
    if nn.parameter.is_lazy(weight) or weight.is_meta or not weight.is_floating_point():
        raise DomainError(
            f"{name!r} must hold real numbers to have a stable rank, got {weight.dtype}"
            f" on {weight.device}; initialise the layer first"
        )
    return weight


def checked_dim(weight: Tensor, dim: int) -> int:
    """Return the axis of the outputs, counted from the front.

    Args:
        weight: Of two or more axes.
        dim: As asked.

    Returns:
        The axis.

    Raises:
        ShapeError: If the weight is no matrix or kernel.
        DomainError: If it has no such axis.
    """
    if weight.ndim < 2 or weight.numel() == 0:
        raise ShapeError(
            "a stable rank needs a matrix or a kernel, got shape "
            f"{tuple(weight.shape)}; name another parameter by name="
        )
    if not -weight.ndim <= dim < weight.ndim:
        raise DomainError(
            f"dim must be an axis of the weight, {weight.ndim} in all, got {dim}; "
            "it is the axis of the outputs, mostly 0"
        )
    return dim % weight.ndim


def checked_groups(weight: Tensor, groups: int) -> int:
    """Return the number of matrices that stand one after the other in a weight.

    Args:
        weight: Any weight.
        groups: As asked.

    Returns:
        The number.

    Raises:
        DomainError: If it does not divide the first axis.
    """
    check_count("groups", groups)
    if weight.shape[0] % groups:
        raise DomainError(
            f"groups divide the first axis of a weight, got groups={groups} with shape "
            f"{tuple(weight.shape)}; pass the groups of the convolution"
        )
    return groups


def check_positive(name: str, x: object, way_out: str) -> float:
    """Refuse what is no positive finite number.

    Args:
        name: Of the argument.
        x: Its value.
        way_out: What to do instead.

    Returns:
        The same as a float.

    Raises:
        ArgumentTypeError: If it is not a number.
        DomainError: If it is not positive and finite.
    """
    if isinstance(x, bool) or not isinstance(x, Real):
        raise ArgumentTypeError(
            f"{name} is a positive number, got {x!r}; convert first, e.g. float(x)"
        )
    if not 0.0 < float(x) < math.inf:
        raise DomainError(f"{name} must be positive and finite, got {x}; {way_out}")
    return float(x)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of a weight before the message of an error.

    Args:
        name: Of the weight.

    Yields:
        Nothing.

    Raises:
        ArgumentTypeError: The one that was raised, with the name.
        DomainError: Likewise.
    """  # noqa: DOC502 - raised by its own class
    try:
        yield
    except (ArgumentTypeError, DomainError) as error:
        kind: type[SpectrankError] = type(error)
        raise kind(f"{name}: {error}") from error


def is_number(x: object) -> bool:
    """Whether something is a real number, which True is not.

    Args:
        x: Anything.

    Returns:
        The answer.
    """
    return isinstance(x, Real) and not isinstance(x, bool)


def check_model(model: object, select: str | Sequence[str] | None) -> nn.Module:
    """Return a model whose weights the patterns name.

    Args:
        model: As given.
        select: Glob pattern(s) of weight names; None for all.

    Returns:
        The model.

    Raises:
        ArgumentTypeError: If it is no module.
        DomainError: If it has no tensors, there is no pattern, or one matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(
            "the weights looked at are those of a torch.nn.Module, got "
            f"{type(model).__name__}; pass the model"
        )
    names = weight_names(model)
    if not names:
        raise DomainError(
            "the model must have a weight to look at, "
            f"{type(model).__name__} has no tensors; pass the model that holds them"
        )
    if select is not None and not isinstance(select, str) and not len(select):
        raise DomainError(
            f"select names what is looked at by at least one pattern, got {select!r}; "
            "leave it out for every weight"
        )
    if unmatched := unmatched_patterns(names, select):
        raise DomainError(
            f"each pattern of select names a tensor of the model, {unmatched[0]!r} "
            "matches none; patterns are globs on whole names, e.g. '*.mlp.*.weight'"
        )
    return model
