"""Optional libraries, imported where they are used, with an error that names them."""

from __future__ import annotations

import importlib
from typing import Any

from spectrank.errors import SpectrankError

_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "optuna": "optuna"}


class MissingExtraError(SpectrankError, ImportError):
    """An optional library is not installed."""


def need(module: str, purpose: str) -> Any:
    """Import an optional library.

    Args:
        module: Dotted name, such as ``sklearn.datasets``.
        purpose: What it is needed for, for the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed; the message names the extra.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = _PACKAGES.get(top, top)
        raise MissingExtraError(
            f"{purpose} needs {package}, which cannot be imported ({error}); "
            "pip install 'spectrank[experiments]'"
        ) from error
