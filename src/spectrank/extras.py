"""Optional libraries, imported where they are used, with an error that names them."""

from __future__ import annotations

import importlib
from typing import Any

from spectrank.errors import SpectrankError

# Module -> what installs it: package and extra of ours.
_PACKAGES = {
    "PIL": ("pillow", "experiments"),
    "gguf": ("gguf", "gguf"),
    "matplotlib": ("matplotlib", "plot"),
    "onnx": ("onnx", "onnx"),
    "optuna": ("optuna", "experiments"),
    "ray": ("ray", "ray"),
    "sklearn": ("scikit-learn", "experiments"),
    "threadpoolctl": ("threadpoolctl", "experiments"),
}


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
    package, extra = _PACKAGES[module.partition(".")[0]]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {package}, which cannot be imported ({error}); "
            f"pip install 'spectrank[{extra}]'"
        ) from error
