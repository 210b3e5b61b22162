"""Exceptions and warnings: each is a SpectrankError and the builtin one expects.

A message has three parts: the rule, the value that broke it, the way out.
"""


class SpectrankError(Exception):
    """Base of every error that spectrank raises on purpose."""


class DomainError(SpectrankError, ValueError):
    """An argument lies outside the range where the quantity is defined."""


class ArgumentTypeError(SpectrankError, TypeError):
    """An argument is of a type that the function does not take."""


class ShapeError(SpectrankError, ValueError):
    """A tensor does not have the shape that the function is defined on."""


class UnknownNameError(SpectrankError, LookupError):
    """A metric, view or option of that name does not exist."""


class CheckpointError(SpectrankError, OSError):
    """A file or folder cannot be read as a checkpoint."""


class TableError(SpectrankError, ValueError):
    """Rows or a file do not fit the schema of a Table."""


class SpectrankWarning(UserWarning):
    """A request was served only in part; the rows say which part and why."""
