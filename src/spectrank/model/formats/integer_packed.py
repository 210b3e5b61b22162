r"""Integer codes packed into words of 32 bits: GPTQ and AWQ.

.. math:: W_{oi} = s_{g(i) o} (q_{oi} - z_{g(i) o})

with groups g of inputs. Words run along

    GPTQ  the inputs of ``qweight`` (in * bits / 32, out), the outputs of ``qzeros``;
          the first version stores z - 1 modulo 2^bits, ``gptq_v2`` stores z, and
          auto-round does either
    AWQ   the outputs of both, each word holding outputs 0 2 4 6 1 3 5 7

A code of 8 bits times a scale of half precision is exact in float32.
Source (derived): against the packers of these libraries,
tests/model/formats/test_packed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from spectrank.model.formats.bits import num_words, unpack_bits
from spectrank.model.formats.groups import checked_places, shifted_and_scaled
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

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_BITS = (2, 3, 4, 5, 6, 7, 8)
# What is added to a stored zero point, by format.
_PLUS = {
    "gptq": 1,
    "gptq_v2": 0,
    "auto_round": 0,
    "auto_round:gptqmodel": 0,
    "auto_round:auto_gptq": 1,
}
Load = Callable[[], Tensor]


def qweight(entry: Entry, by_name: ByName, config: Config) -> Found:
    """GPTQ or AWQ, which share their names and differ in shape.

    Args:
        entry: Any entry.
        by_name: All of the source.
        config: How the model was quantised; empty where that is unknown.

    Returns:
        The weight, a refusal, or None where this is something else.
    """
    if not entry.name.endswith("qweight") or entry.dtype != torch.int32:
        return None
    stem = entry.name.removesuffix("qweight")
    codes, scales = entry.shape or (), by_name.get(f"{stem}scales")
    zeros, order = by_name.get(f"{stem}qzeros"), by_name.get(f"{stem}g_idx")
    present = tuple(e.name for e in (entry, scales, zeros, order) if e is not None)
    if scales is None or zeros is None or not _readable(entry, scales, zeros):
        return Refused(way_out("no scales and zero points beside them"), present)
    assert scales.shape is not None
    assert zeros.shape is not None
    sides = (*codes, *scales.shape, *zeros.shape)
    if not len(codes) == len(scales.shape) == len(zeros.shape) == 2 or 0 in sides:
        return Refused(way_out("shapes of no known packing"), present)
    method = str(config.get("version", "gemm")).lower()
    if codes[1] == zeros.shape[1] and 8 * codes[1] == scales.shape[1]:
        if method != "gemm":
            return Refused(way_out(f"AWQ version {method}"), present)
        return _awq(entry, zeros, scales, stem, present)
    return _gptq(entry, zeros, scales, order, stem, present, config)


def _readable(*entries: Entry) -> bool:
    _, scales, zeros = entries
    real = scales.dtype in REAL and zeros.dtype == torch.int32
    return real and all(entry.refusal is None for entry in entries)


def _gptq(
    entry: Entry,
    zeros: Entry,
    scales: Entry,
    order: Entry | None,
    stem: str,
    parts: tuple[str, ...],
    config: Config,
) -> Found:
    assert entry.shape is not None
    assert zeros.shape is not None
    assert scales.shape is not None
    words, outputs = entry.shape
    groups = scales.shape[0]
    form = _format(config)
    if form not in _PLUS:
        return Refused(way_out(f"GPTQ format {form}"), parts)
    plus = _PLUS[form]
    bits = _bits_of(entry, zeros, scales, order, config.get("bits"))
    if bits is None:
        return Refused(way_out("shapes of no known packing"), parts)
    inputs = words * 32 // bits
    if order is None and (groups == 0 or inputs % groups):
        return Refused(way_out("groups of unequal size without g_idx"), parts)
    load = partial(
        _load_gptq,
        entry.load,
        zeros.load,
        scales.load,
        None if order is None else order.load,
        (outputs, inputs, bits, plus, stem),
    )
    told = "zero points plus one" if plus else "zero points as stored"
    note = f"decoded from {form}, {bits} bits, {groups} groups, {told}"
    return Packing(
        f"{stem}weight", (outputs, inputs), torch.float32, load, note, parts, "linear"
    )


def _format(config: Config) -> str:
    """The format that a configuration tells; that of the first version without one."""
    if "round" not in str(config.get("quant_method")).lower():
        return str(config.get("checkpoint_format", "gptq")).lower()
    told = config.get("packing_format", config.get("backend", "auto_round:auto_gptq"))
    return str(told).lower()


def _bits_of(
    entry: Entry, zeros: Entry, scales: Entry, order: Entry | None, told: object
) -> int | None:
    """Bits of a code that fit the shapes; what was told chooses among several."""
    # A configuration speaks for the model: single layers may have other bits.
    assert entry.shape is not None
    assert zeros.shape is not None
    assert scales.shape is not None
    groups, outputs = scales.shape
    fits = []
    for bits in _BITS:
        inputs = entry.shape[0] * 32 // bits
        whole = inputs * bits == entry.shape[0] * 32
        zeros_fit = zeros.shape == (groups, num_words(outputs, bits))
        ordered = order is None or order.shape == (inputs,)
        if whole and zeros_fit and ordered and entry.shape[1] == outputs > 0:
            fits.append(bits)
    if len(fits) == 1:
        return fits[0]
    return next((bits for bits in fits if bits == told), None)


def _load_gptq(
    codes: Load,
    zeros: Load,
    scales: Load,
    order: Load | None,
    known: tuple[int, int, int, int, str],
) -> Tensor:
    outputs, inputs, bits, plus, stem = known
    scale = scales().detach().to(torch.float32).mT
    zero = unpack_bits(zeros().detach(), bits, outputs).to(torch.int32)
    # The first version wraps around: z = 0 is stored as 2^bits - 1.
    zero = (zero + plus) & ((1 << bits) - 1)
    groups = scale.shape[1]
    places = None
    if order is not None:
        places = checked_places(
            order().detach().to(torch.int64), groups, f"{stem}g_idx"
        )
    values = unpack_bits(codes().detach().mT, bits, inputs)
    return shifted_and_scaled(values, zero.mT.to(torch.float32), scale, places)


def _awq(
    entry: Entry, zeros: Entry, scales: Entry, stem: str, parts: tuple[str, ...]
) -> Found:
    assert entry.shape is not None
    assert zeros.shape is not None
    assert scales.shape is not None
    inputs, groups, outputs = entry.shape[0], *scales.shape
    if groups == 0 or inputs % groups or zeros.shape[0] != groups:
        return Refused(way_out("shapes of no known packing"), parts)
    load = partial(_load_awq, entry.load, zeros.load, scales.load, outputs)
    note = f"decoded from AWQ, 4 bits, {groups} groups"
    return Packing(
        f"{stem}weight", (outputs, inputs), torch.float32, load, note, parts, "linear"
    )


def _load_awq(codes: Load, zeros: Load, scales: Load, outputs: int) -> Tensor:
    scale = scales().detach().to(torch.float32)
    values = _in_order(codes().detach(), outputs)
    zero = _in_order(zeros().detach(), outputs)
    groups = values.view(scale.shape[0], -1, outputs)
    groups -= zero[:, None]
    groups *= scale[:, None]
    return values.mT


def _in_order(words: Tensor, outputs: int) -> Tensor:
    stored = unpack_bits(words, 4, outputs).reshape(words.shape[0], -1, 8)
    found = torch.empty_like(stored)
    found[:, :, list(_AWQ_ORDER)] = stored
    return found.reshape(words.shape[0], outputs)
