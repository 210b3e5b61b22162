"""Configurations beside the weights: small JSON files, read for what they tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A configuration is a page of text; what is larger is none.
_MOST_BYTES = 1 << 20
# Files that hold nothing but how a model was quantised.
_OWN = ("quantize_config.json", "quant_config.json")


def json_beside(path: str | Path, name: str) -> Mapping[str, Any] | None:
    """A configuration beside a file or in a folder.

    Args:
        path: File or folder of the weights.
        name: Of the configuration.

    Returns:
        Its keys; None where there is none that can be read.
    """
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / name
    try:
        if file.stat().st_size > _MOST_BYTES:
            return None
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        # It only helps: without it the names alone decide.
        return None
    return config if isinstance(config, dict) else None


def quantization_beside(path: str | Path) -> Mapping[str, Any]:
    """How the weights of a path were quantised, as far as a file tells.

    Args:
        path: File or folder of the weights.

    Returns:
        ``quantization_config`` of config.json, or a file of its own; empty for none.
    """
    config = json_beside(path, "config.json") or {}
    inner = config.get("quantization_config")
    if isinstance(inner, dict):
        return inner
    found = (json_beside(path, name) for name in _OWN)
    return next((own for own in found if own is not None), {})
