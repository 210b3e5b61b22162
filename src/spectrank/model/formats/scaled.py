"""Codes in 8 bits with their scales beside them, decoded: fp8 and int8 checkpoints.

    N and N_scale_inv    DeepSeek: values times the scale of their block
    N and N_scale        compressed-tensors: times one scale, one a row, or one a group
                         of inputs; MXFP8 where the scales are exponents
    S.qweight, S.scale   times one scale a row
    S.weight, S.SCB      LLM.int8 of bitsandbytes: times the largest of the row / 127

Some subtract ``N_zero_point`` first. Codes that are packed are in `quantised`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from spectrank.model.formats.packing import EXPONENTS, REAL, powers_of_two
from spectrank.model.weights import Entry

_CODES = frozenset(
    {torch.int8, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz}
)
# The block of DeepSeek's checkpoints, the one in use without a word in config.json.
_BLOCK = 128


def decode_scaled(
    entries: Sequence[Entry], block: tuple[int, int] | None = None
) -> list[Entry]:
    """Entries whose codes are multiplied by their scales when they are loaded.

    Args:
        entries: Of a source.
        block: Rows and columns of a block, where a configuration tells.

    Returns:
        As many entries, in order; what is not understood is left as it was.
    """
    by_name = {entry.name: entry for entry in entries}
    decoded = [_decoded(entry, by_name, block) for entry in entries]
    used: set[str] = set()
    for before, after in zip(entries, decoded, strict=True):
        scale = None if after is before else _scale_of(before, by_name)
        if scale is not None:
            used |= {scale.name, f"{before.name}_zero_point"}
    # Scales are no parameters of the model.
    return [replace(e, role="beside") if e.name in used else e for e in decoded]


def _decoded(
    entry: Entry, by_name: Mapping[str, Entry], block: tuple[int, int] | None
) -> Entry:
    if entry.dtype not in _CODES or not entry.shape or len(entry.shape) < 2:
        return entry
    if entry.refusal is not None or entry.note is not None:
        return entry
    scale = _scale_of(entry, by_name)
    if scale is None or scale.shape is None:
        return entry
    steps = 127.0 if scale.name.endswith("SCB") else 1.0
    if steps != 1.0 and not _by_rows(entry, by_name):
        return entry
    spread = _spreading(scale.shape, entry.shape, block)
    if spread is None:
        return entry
    zero = by_name.get(f"{entry.name}_zero_point")
    if zero is not None and zero.shape != scale.shape:
        return entry
    kind = str(entry.dtype).removeprefix("torch.")
    sides = "x".join(map(str, scale.shape)) or "one"
    return replace(
        entry,
        dtype=torch.float32,
        load=partial(
            _load,
            entry.load,
            scale.load,
            None if zero is None else zero.load,
            (spread, steps),
        ),
        tie=None if entry.tie is None else ("decoded", entry.tie),
        note=f"decoded from {kind} and its scales ({sides})",
    )


def _scale_of(entry: Entry, by_name: Mapping[str, Entry]) -> Entry | None:
    names = [f"{entry.name}_scale_inv", f"{entry.name}_scale"]
    if entry.name.endswith(".qweight"):
        names.append(entry.name.removesuffix("qweight") + "scale")
    if entry.name.endswith("weight") and entry.dtype == torch.int8:
        names.append(entry.name.removesuffix("weight") + "SCB")
    found = (by_name[name] for name in names if name in by_name)
    scale = next(found, None)
    if scale is None:
        return None
    # Exponents scale floats alone: beside integers bytes are something else.
    exponents = entry.dtype != torch.int8 and scale.dtype in EXPONENTS
    return scale if scale.dtype in REAL or exponents else None


def _by_rows(entry: Entry, by_name: Mapping[str, Entry]) -> bool:
    """Whether codes of bitsandbytes lie row by row, not in the tiles of a device."""
    form = by_name.get(entry.name.removesuffix("weight") + "weight_format")
    if form is None:
        return True
    return form.shape == () and form.refusal is None and int(form.load()) == 0


_Spread = Callable[[Tensor], Tensor]


def _spreading(
    scale: tuple[int, ...], shape: tuple[int, ...], block: tuple[int, int] | None
) -> _Spread | None:
    """How scales are brought to the shape of the codes; None where that is unknown."""
    if all(side == 1 for side in scale):
        return partial(torch.reshape, shape=[1] * len(shape))
    if scale == shape[:1]:
        return partial(torch.reshape, shape=[-1] + [1] * (len(shape) - 1))
    same = len(scale) == len(shape)
    if same and all(a in {1, b} for a, b in zip(scale, shape, strict=True)):
        return _as_it_is
    if len(shape) == 2 and _in_groups(scale, shape):
        return partial(_blockwise, rows=1, columns=shape[1] // scale[1], shape=shape)
    # A block that is larger than the matrix is the matrix.
    given = block or (_BLOCK, _BLOCK)
    rows, columns = (max(1, min(pair)) for pair in zip(given, shape, strict=False))
    if len(shape) == 2 and scale == (-(-shape[0] // rows), -(-shape[1] // columns)):
        return partial(_blockwise, rows=rows, columns=columns, shape=shape)
    return None


def _in_groups(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """One scale per row and group of inputs."""
    if len(scale) != 2 or scale[0] != shape[0] or scale[1] == 0:
        return False
    return shape[1] % scale[1] == 0


def _as_it_is(scale: Tensor) -> Tensor:
    return scale


def _blockwise(
    scale: Tensor, *, rows: int, columns: int, shape: tuple[int, int]
) -> Tensor:
    tall = scale.repeat_interleave(rows, dim=0)[: shape[0]]
    return tall.repeat_interleave(columns, dim=1)[:, : shape[1]]


def _load(
    codes: Callable[[], Tensor],
    scale: Callable[[], Tensor],
    zero: Callable[[], Tensor] | None,
    how: tuple[_Spread, float],
) -> Tensor:
    spread, steps = how
    values = codes().detach().to(torch.float32)
    if zero is not None:
        values = values - spread(zero().detach().to(torch.float32))
    factor = spread(_numbers(scale().detach()))
    return values * (factor / steps) if steps != 1.0 else values * factor


def _numbers(scale: Tensor) -> Tensor:
    if scale.dtype in EXPONENTS:
        return powers_of_two(scale)
    return scale.to(torch.float32)
