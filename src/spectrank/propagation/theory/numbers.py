"""A check of arguments that are real numbers."""

from __future__ import annotations

from numbers import Real

from spectrank.errors import ArgumentTypeError


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
