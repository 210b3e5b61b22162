"""What a decoder of packed weights finds: one weight and the tensors it is made of."""

from __future__ import annotations

import math
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
EXPONENTS = frozenset({torch.uint8, getattr(torch, "float8_e8m0fnu", torch.uint8)})
"""Dtypes of scales that are powers of two; torch 2.6 has bytes alone for them."""


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


def powers_of_two(exponents: Tensor) -> Tensor:
    """Scales 2^(e - 127) of exponents stored in bytes; 255 stands for no number.

    Source (stated): OCP Microscaling Formats (MX) v1.0, section 5.4.1.

    Args:
        exponents: One of ``EXPONENTS``.

    Returns:
        float32, of the same shape.
    """
    table = torch.tensor([2.0 ** (power - 127) for power in range(255)] + [math.nan])
    return table.to(exponents.device)[exponents.view(torch.uint8).to(torch.int32)]
