"""Paths as a user gives them, refused before anything is opened."""

from os import PathLike
from pathlib import Path

from spectrank.errors import ArgumentTypeError, DomainError


def as_path(path: object, *, name: str, example: str) -> Path:
    """Return the path that an argument names.

    Args:
        path: As given.
        name: What the argument is called, for the message.
        example: One that would do, for the message.

    Returns:
        The path; whether anything is there is for the caller to see.

    Raises:
        ArgumentTypeError: It is neither text nor a path.
        DomainError: It has a null byte, which no file system takes.
    """
    if not isinstance(path, str | PathLike):
        raise ArgumentTypeError(
            f"{name} is a path, got {path!r:.80} of type {type(path).__name__}; "
            f"e.g. {example!r}"
        )
    if "\0" in str(path):
        raise DomainError(
            f"{name} is a path without null bytes, got {str(path)!r:.80}; "
            f"e.g. {example!r}"
        )
    return Path(path)
