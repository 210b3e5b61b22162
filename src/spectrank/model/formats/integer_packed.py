r"""Integer codes packed into words of 32 bits: GPTQ, AWQ and compressed-tensors.

.. math:: W_{oi} = s_{g(i) o} (q_{oi} - z_{g(i) o})

with groups g of inputs. Words run along

    GPTQ  the inputs of ``qweight`` (in * bits / 32, out), the outputs of ``qzeros``;
          the first version stores z - 1 modulo 2^bits, ``gptq_v2`` stores z
    AWQ   the outputs of both, each word holding outputs 0 2 4 6 1 3 5 7
    compressed-tensors  the inputs of ``weight_packed`` (out, in * bits / 32); codes
          and zero points are stored plus 2^(bits - 1)

A code of 8 bits times a scale of half precision is exact in float32.
Source (derived): against the packers of these libraries,
tests/model/formats/test_packed.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.formats.bits import num_words, unpack_bits
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
_BITS = (2, 3, 4, 8)
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
    form = str(config.get("checkpoint_format", "gptq")).lower()
    if form not in {"gptq", "gptq_v2"}:
        return Refused(way_out(f"GPTQ format {form}"), parts)
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
        (outputs, inputs, bits, 0 if form == "gptq_v2" else 1, stem),
    )
    told = "zero points plus one" if form == "gptq" else "zero points as stored"
    note = f"decoded from GPTQ, {bits} bits, {groups} groups, {told}"
    return Packing(
        f"{stem}weight", (outputs, inputs), torch.float32, load, note, parts, "linear"
    )


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
        places = _checked(order().detach().to(torch.int64), groups, stem)
    values = unpack_bits(codes().detach().mT, bits, inputs)
    return _shifted_and_scaled(values, zero.mT.to(torch.float32), scale, places)


def _shifted_and_scaled(
    values: Tensor, zero: Tensor | None, scale: Tensor, places: Tensor | None
) -> Tensor:
    """Codes minus zero points times scales, in place.

    Args:
        values: Codes (out, in).
        zero: Zero points (out, groups); None for zero.
        scale: Scales (out, groups), or (1, groups) for the same in all rows.
        places: Group of each input; None for groups of neighbours.

    Returns:
        The values, which are overwritten.
    """
    if places is None:
        groups = values.view(values.shape[0], scale.shape[1], -1)
        if zero is not None:
            groups -= zero[..., None]
        groups *= scale[..., None]
        return values
    if zero is not None:
        values -= zero[:, places]
    values *= scale[:, places]
    return values


def _checked(places: Tensor, groups: int, stem: str) -> Tensor | None:
    """Groups of the inputs; None where they are those of neighbours."""
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < groups:
        raise CheckpointError(
            f"g_idx must lie in [0, {groups - 1}], that of {stem}qweight reaches from "
            f"{int(places.min())} to {int(places.max())}; fetch the file again"
        )
    # As it is without activation ordering: a fifth of the time.
    size = places.numel() // max(groups, 1)
    neighbours = torch.arange(places.numel(), device=places.device) // max(size, 1)
    plain = size * groups == places.numel() and torch.equal(places, neighbours)
    return None if plain else places


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


def weight_packed(entry: Entry, by_name: ByName, config: Config) -> Found:
    """compressed-tensors in 4 or 8 bits, ``weight_packed`` with its scales.

    Args:
        entry: Any entry.
        by_name: All of the source.
        config: How the model was quantised; the shapes tell all that is needed.

    Returns:
        The weight, a refusal, or None where this is something else.
    """
    if not entry.name.endswith("weight_packed") or entry.dtype != torch.int32:
        return None
    name = entry.name.removesuffix("_packed")
    kinds = ("scale", "zero_point", "g_idx", "shape")
    scale, zero, order, shape = (by_name.get(f"{name}_{kind}") for kind in kinds)
    found = (entry, scale, zero, order, shape)
    parts = tuple(e.name for e in found if e is not None)
    if scale is None or shape is None or scale.dtype not in REAL:
        return Refused(way_out("no scales and shape beside them"), parts)
    sides = _stored_shape(shape)
    codes, groups = entry.shape or (), scale.shape or ()
    if sides is None or len(codes) != 2 or codes[0] != sides[0]:
        return Refused(way_out("shapes of no known packing"), parts)
    outputs, inputs = sides
    # Other widths are padded by some versions of the library and dense in others.
    bits = next((b for b in (4, 8) if num_words(inputs, b) == codes[1]), None)
    if bits is None or 0 in sides or not _in_groups(groups, outputs, inputs):
        return Refused(way_out("neither 4 nor 8 bits in equal groups"), parts)
    unpacked = zero is None or zero.shape == (num_words(outputs, bits), *groups[1:])
    if not unpacked or (zero is not None and zero.dtype != torch.int32):
        return Refused(way_out("zero points of another shape"), parts)
    load = partial(
        _load_compressed,
        entry.load,
        scale.load,
        None if zero is None else zero.load,
        None if order is None else order.load,
        (outputs, inputs, bits, name),
    )
    note = f"decoded from compressed-tensors, {bits} bits, {groups[-1]} groups"
    return Packing(name, sides, torch.float32, load, note, parts)


def _stored_shape(entry: Entry) -> tuple[int, int] | None:
    if entry.shape != (2,) or entry.refusal is not None:
        return None
    if entry.dtype not in {torch.int32, torch.int64}:
        return None
    m, n = (int(side) for side in entry.load())
    return (m, n) if m >= 0 and n >= 0 else None


def _in_groups(groups: tuple[int, ...], outputs: int, inputs: int) -> bool:
    if len(groups) != 2 or groups[0] not in {1, outputs}:
        return False
    return groups[1] > 0 and inputs % groups[1] == 0


def _load_compressed(
    codes: Load,
    scales: Load,
    zeros: Load | None,
    order: Load | None,
    known: tuple[int, int, int, str],
) -> Tensor:
    outputs, inputs, bits, name = known
    scale = scales().detach().to(torch.float32)
    groups = scale.shape[1]
    places = None
    if order is not None:
        stored = order().detach().to(torch.int64).flatten()
        # Before activation ordering they are written as -1.
        if stored.shape == (inputs,) and bool((stored >= 0).all()):
            places = _checked(stored, groups, name)
    half = 1 << (bits - 1)
    values = unpack_bits(codes().detach(), bits, inputs)
    values -= half
    zero = None
    if zeros is not None:
        zero = unpack_bits(zeros().detach().mT, bits, outputs).mT - half
    return _shifted_and_scaled(values, zero, scale, places)
