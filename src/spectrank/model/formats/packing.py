"""What a decoder of packed weights finds: one weight and the tensors it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from spectrank.model.weights import Entry

Config = Mapping[str, Any]
ByName = Mapping[str, Entry]
REAL = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
"""Dtypes of scales that are plain numbers."""


@final
@dataclass(frozen=True)
class Packing:
    """A weight that several tensors of a source hold together.

    Attributes:
        name: Of the weight; that of its codes where they keep it.
        shape: Of the weight.
        dtype: Of its values, which this type holds exactly or to its precision.
        load: Gives the values.
        note: From what it is decoded.
        parts: Names of the tensors that it is made of.
        view: Where the packing itself tells how it is stored, else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor] = field(repr=False)
    note: str
    parts: tuple[str, ...]
    view: str | None = None


@final
@dataclass(frozen=True)
class Refused:
    """Codes that are recognised but not decoded.

    Attributes:
        reason: What is not understood, and the way to have the weight.
        parts: Names of the tensors concerned.
    """

    reason: str
    parts: tuple[str, ...]


Found = Packing | Refused | None
Decoder = Callable[[Entry, ByName, Config], Found]


def way_out(what: str) -> str:
    """The reason to leave codes alone, with the way to have the weight.

    Args:
        what: What is not understood.

    Returns:
        One sentence without a full stop.
    """
    return (
        f"packed codes, not decoded: {what}; save the model dequantised by the "
        "library that packed it"
    )
