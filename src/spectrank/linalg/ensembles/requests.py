"""Checks of a request for an ensemble, all before any randomness is drawn."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)

# A profile is descending and has the stable rank it is said to have up to rounding.
_SLACK = 1e-10


def check_name(spectrum: str, known: Sequence[str]) -> None:
    """Refuse a spectrum of a name that does not exist.

    Args:
        spectrum: As asked.
        known: Existing names.

    Raises:
        UnknownNameError: With the nearest name.
    """
    if spectrum in known:
        return
    near = difflib.get_close_matches(str(spectrum), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownNameError(
        f"a spectrum is one of {', '.join(known)}, got {spectrum!r}; "
        f"{hint}any other shape goes in as profile="
    )


def check_choice(name: str, x: str, known: Sequence[str]) -> None:
    """Refuse what is none of a few words.

    Args:
        name: Of the argument.
        x: Its value.
        known: The words, the default first.

    Raises:
        UnknownNameError: If it is none of them.
    """
    if x not in known:
        raise UnknownNameError(
            f"{name} is one of {', '.join(known)}, got {x!r}; "
            f"the default is {known[0]!r}"
        )


def check_number(name: str, x: object, way_out: str) -> float:
    """Refuse what is no real number.

    Args:
        name: Of the argument, for the message.
        x: Its value.
        way_out: What to pass instead.

    Returns:
        The same as a float.

    Raises:
        ArgumentTypeError: If it is none.
    """
    if not isinstance(x, Real):
        raise ArgumentTypeError(
            f"{name} is a number, got {type(x).__name__}; {way_out}"
        )
    return float(x)


def check_stable_rank(stable_rank: object, m: int, n: int) -> float:
    """Refuse what no (m, n) matrix has.

    Args:
        stable_rank: As asked.
        m: Number of rows.
        n: Number of columns.

    Returns:
        The same as a float.

    Raises:
        ArgumentTypeError: If it is not a number.
        DomainError: If it lies outside [1, min(m, n)].
    """
    if isinstance(stable_rank, bool) or not isinstance(stable_rank, Real):
        raise ArgumentTypeError(
            f"stable_rank is a number in [1, {min(m, n)}] for a {m} x {n} matrix, "
            f"got {stable_rank!r}; convert first, e.g. float(stable_rank)"
        )
    r = float(stable_rank)
    if not 1.0 <= r <= min(m, n):
        raise DomainError(
            f"stable_rank must lie in [1, {min(m, n)}] for a {m} x {n} matrix, "
            f"got {stable_rank}; choose a smaller target or a wider layer"
        )
    return r


def check_norm(name: str, x: object) -> float:
    """Refuse what is no positive finite norm.

    Args:
        name: Of the argument.
        x: Its value.

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
    norm = float(x)
    if not 0.0 < norm < math.inf:
        raise DomainError(
            f"{name} must be positive and finite, got {x}; "
            "a zero matrix has no stable rank"
        )
    return norm


def normalised_profile(
    profile: Tensor | Sequence[float], m: int, n: int
) -> tuple[float, ...]:
    """Turn singular values into squares whose first is one.

    Args:
        profile: (at most min(m, n),) descending, not negative, the first positive; the
            missing ones are zero.
        m: Number of rows.
        n: Number of columns.

    Returns:
        min(m, n) squares.

    Raises:
        ArgumentTypeError: If it is no sequence of real numbers.
        ShapeError: If it is not 1-D or has no or too many values.
        DomainError: If the values are not descending, finite and non-negative.
    """
    if isinstance(profile, Tensor) and profile.is_complex():
        raise ArgumentTypeError(
            f"singular values are real, got {profile.dtype}; pass their moduli"
        )
    try:
        # At once in float64: a list of floats would pass through float32.
        s = torch.as_tensor(profile, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"a profile is a tensor or a sequence of numbers, got {profile!r} "
            f"({error}); pass e.g. [1.0, 0.5, 0.25]"
        ) from error
    p = min(m, n)
    if s.ndim != 1 or not 1 <= len(s) <= p:
        raise ShapeError(
            f"a profile has 1 to {p} singular values for a {m} x {n} matrix, "
            f"got shape {tuple(s.shape)}; pass a 1-D tensor of descending values"
        )
    top = float(s[0])
    falls = bool((s[1:] <= s[:-1]).all())
    if not (0.0 < top < math.inf and falls and float(s[-1]) >= 0.0):
        raise DomainError(
            "a profile is descending, finite and non-negative and starts above zero, "
            f"got {_shown(s)}; sort it: profile.sort(descending=True)[0]"
        )
    # Divide first: (1e-200)**2 is 0, (1e-200 / 1e-200)**2 is not.
    squares = (s / top).square()
    return (*squares.tolist(), *([0.0] * (p - len(s))))


def check_agrees(asked: float, got: float) -> None:
    """Refuse a stable rank that a given profile does not have.

    Args:
        asked: As asked.
        got: Of the profile.

    Raises:
        DomainError: If they differ by more than rounding.
    """
    if abs(asked - got) > _SLACK * got:
        raise DomainError(
            f"a profile has a stable rank of its own, here {got:.12g}, got "
            f"stable_rank={asked}; leave it out, or leave the profile out"
        )


def _shown(s: Tensor) -> str:
    values = [f"{x:g}" for x in s[:6].tolist()]
    return f"[{', '.join(values)}{', ...' if len(s) > 6 else ''}]"
