r"""Integer codes of compressed-tensors, packed into words along the inputs.

.. math:: W_{oi} = s_{o g(i)} (q_{oi} - z_{o g(i)})

``weight_packed`` is (out, in * bits / 32), ``weight_zero_point`` is packed along the
outputs; both are stored plus 2^(bits - 1). Source (derived): against the packer of the
library, tests/model/formats/test_packed.py.
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

Load = Callable[[], Tensor]


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
            places = checked_places(stored, groups, f"{name}_g_idx")
    half = 1 << (bits - 1)
    values = unpack_bits(codes().detach(), bits, inputs)
    values -= half
    zero = None
    if zeros is not None:
        zero = unpack_bits(zeros().detach().mT, bits, outputs).mT - half
    return shifted_and_scaled(values, zero, scale, places)
