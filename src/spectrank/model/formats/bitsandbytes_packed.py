r"""Tables of sixteen values with a scale a block: NF4 and FP4 of bitsandbytes.

.. math:: W_k = s_{\lfloor k / b \rfloor} T[q_k]

The codes keep the name of the weight, two in a byte, the first in the upper half; the
scales (``absmax``), the table (``quant_map``) and a JSON text of shape and block size
lie beside it. With ``nested_absmax`` the scales are codes of 8 bits themselves, plus
``nested_offset``. The library rounds the product to its compute type, here it stays
float32. Source (derived): bitsandbytes, tests/model/formats/test_packed.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard, final

import torch
from torch import Tensor

from spectrank.model.formats.bits import look_up
from spectrank.model.formats.packing import (
    REAL,
    ByName,
    Config,
    Found,
    Packing,
    Refused,
    way_out,
)
from spectrank.model.weights import Entry

Load = Callable[[], Tensor]
_STATE = ("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__fp4")
_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
# The text is some 200 bytes long, its numbers are block sizes.
_MOST_TEXT = 1 << 16


def bitsandbytes(entry: Entry, by_name: ByName, config: Config) -> Found:
    """NF4 or FP4 of bitsandbytes.

    Args:
        entry: Any entry.
        by_name: All of the source.
        config: Not needed: all is beside the weight.

    Returns:
        The weight, a refusal, or None where this is something else.
    """
    state = next((n for s in _STATE if (n := f"{entry.name}.{s}") in by_name), None)
    if state is None:
        return None
    beside = {kind: by_name.get(f"{entry.name}.{kind}") for kind in _BESIDE}
    present = [entry.name, state, *(e.name for e in beside.values() if e is not None)]
    text = _text(by_name[state])
    known = None if text is None else _State.read(text, beside)
    num_bytes = _num_bytes(entry)
    if known is None or not known.fits(num_bytes):
        reason = way_out("its quant_state does not fit its tensors")
        return Refused(reason, tuple(present))
    kind = state.rpartition("__")[2].upper()
    nested = ", nested scales" if known.nested is not None else ""
    return Packing(
        entry.name,
        known.shape,
        torch.float32,
        partial(_load_table, entry.load, known),
        f"decoded from {kind} of bitsandbytes, blocks of {known.block}{nested}",
        tuple(present),
    )


@final
@dataclass(frozen=True)
class _State:
    """What the text and the tensors beside a weight of bitsandbytes tell."""

    shape: tuple[int, ...]
    block: int
    absmax: Entry = field(repr=False)
    table: Entry = field(repr=False)
    nested: tuple[Entry, Entry, int, float] | None = field(repr=False)

    @classmethod
    def read(
        cls, text: dict[str, Any], beside: dict[str, Entry | None]
    ) -> _State | None:
        """The state; None where it contradicts itself."""
        shape, block = text.get("shape"), text.get("blocksize")
        absmax, table = beside["absmax"], beside["quant_map"]
        if absmax is None or table is None or table.shape != (16,):
            return None
        if not _is_count(block) or not isinstance(shape, list) or len(shape) > 8:
            return None
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            return None
        nested = None
        scales, codes = beside["nested_absmax"], beside["nested_quant_map"]
        if scales is not None:
            size, offset = text.get("nested_blocksize"), text.get("nested_offset")
            if codes is None or codes.shape != (256,) or absmax.dtype != torch.uint8:
                return None
            if not _is_count(size) or not isinstance(offset, float):
                return None
            nested = (scales, codes, size, offset)
        elif absmax.dtype not in REAL:
            return None
        return cls(tuple(shape), block, absmax, table, nested)

    def fits(self, num_bytes: int) -> bool:
        """Whether codes and scales are as many as the shape asks for."""
        count = math.prod(self.shape)
        blocks = -(-count // self.block)
        found = math.prod(self.absmax.shape or (0,))
        if self.nested is not None:
            scales, _, size, _ = self.nested
            wanted = -(-blocks // size)
            if math.prod(scales.shape or (0,)) != wanted:
                return False
        return -(-count // 2) == num_bytes and found == blocks

    def scales(self) -> Tensor:
        """One scale per block, (blocks,)."""
        absmax = self.absmax.load().detach().flatten()
        if self.nested is None:
            return absmax.to(torch.float32)
        scales, codes, size, offset = self.nested
        inner = scales.load().detach().flatten().to(torch.float32)
        table = codes.load().detach().to(torch.float32)
        places = torch.arange(absmax.numel(), device=absmax.device) // size
        return table[absmax.to(torch.int64)] * inner[places] + offset


def _is_count(value: Any) -> TypeGuard[int]:
    # The library's largest block has 4,096 values.
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 0 < value <= _MOST_TEXT


def _num_bytes(entry: Entry) -> int:
    # Stored as another type the codes can be sharded; their bytes are the same.
    if entry.dtype is None or entry.shape is None:
        return -1
    return math.prod(entry.shape) * entry.dtype.itemsize


def _text(entry: Entry) -> dict[str, Any] | None:
    size = math.prod(entry.shape or (_MOST_TEXT,))
    if entry.dtype != torch.uint8 or size >= _MOST_TEXT or entry.refusal is not None:
        return None
    try:
        read = json.loads(bytes(entry.load().flatten().tolist()))
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _load_table(codes: Load, state: _State) -> Tensor:
    raw = codes().detach().contiguous().flatten().view(torch.uint8)
    table = state.table.load().detach().to(torch.float32)
    count = math.prod(state.shape)
    values = look_up(raw, table, lower_first=False)[:count]
    scales = state.scales()
    whole = count // state.block * state.block
    values[:whole].view(-1, state.block).mul_(scales[: whole // state.block, None])
    if whole < count:
        values[whole:] *= scales[-1]
    return values.reshape(state.shape)
