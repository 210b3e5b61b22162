"""Quantised weights of a source in place of their codes, whoever packed them.

Each decoder looks at one entry and what lies beside it. What several tensors hold
together becomes one weight under the name that the model has for it; they themselves
become skips that say so. What is recognised but not understood is refused with the way
out. Codes of 8 bits with scales keep their names and come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spectrank.model.formats.bitsandbytes_packed import bitsandbytes
from spectrank.model.formats.compressed_tensors import weight_packed
from spectrank.model.formats.integer_packed import qweight
from spectrank.model.formats.microscaled import experts_in_blocks, packed_floats
from spectrank.model.formats.packing import Config, Decoder, Packing, Refused
from spectrank.model.formats.scaled import decode_scaled
from spectrank.model.weights import Entry

_DECODERS: tuple[Decoder, ...] = (
    bitsandbytes,
    qweight,
    weight_packed,
    packed_floats,
    experts_in_blocks,
)


def decode_quantised(
    entries: Sequence[Entry], config: Config | None = None
) -> list[Entry]:
    """Entries with every quantised weight that is understood decoded when loaded.

    Args:
        entries: Of a source.
        config: How the model was quantised, ``quantization_config`` of transformers;
            None where nothing tells.

    Returns:
        The entries in order. A weight of several tensors stands after its codes.
    """
    config = config or {}
    by_name = {entry.name: entry for entry in entries}
    made: dict[str, Packing] = {}
    refused: dict[str, str] = {}
    part_of: dict[str, str] = {}
    for entry in entries:
        found = _found(entry, by_name, config)
        if isinstance(found, Refused):
            refused |= dict.fromkeys(found.parts, found.reason)
        elif found is not None and _is_free(found, entry, by_name):
            made[entry.name] = found
            part_of |= dict.fromkeys(found.parts, found.name)
    listed: list[Entry] = []
    for entry in entries:
        packing = made.get(entry.name)
        if packing is None or packing.name != entry.name:
            listed.append(_part(entry, part_of, refused))
        if packing is not None:
            listed.append(_weight(entry, packing))
    return decode_scaled(listed, _block(config))


def _found(
    entry: Entry, by_name: dict[str, Entry], config: Config
) -> Packing | Refused | None:
    if entry.refusal is not None or entry.note is not None or entry.shape is None:
        return None
    for decoder in _DECODERS:
        found = decoder(entry, by_name, config)
        if found is not None:
            return found
    return None


def _is_free(found: Packing, entry: Entry, by_name: dict[str, Entry]) -> bool:
    # A weight of that name beside its own codes is another tensor.
    return found.name == entry.name or found.name not in by_name


def _part(entry: Entry, part_of: dict[str, str], refused: dict[str, str]) -> Entry:
    weight = part_of.get(entry.name)
    if weight is not None:
        reason = f"part of the packed weight {weight}, decoded"
        return replace(entry, refusal=reason, role="beside")
    reason = refused.get(entry.name, "")
    return replace(entry, refusal=reason) if reason else entry


def _weight(entry: Entry, packing: Packing) -> Entry:
    own = packing.name == entry.name
    return Entry(
        name=packing.name,
        shape=packing.shape,
        dtype=packing.dtype,
        load=packing.load,
        tie=None if entry.tie is None else ("decoded", entry.tie),
        view=packing.view,
        note=packing.note,
        role="weight" if own else "decoded",
    )


def _block(config: Config) -> tuple[int, int] | None:
    """Rows and columns of a block of fp8, where they are told."""
    block = config.get("weight_block_size")
    if not isinstance(block, list) or len(block) != 2:
        return None
    rows, columns = block
    counts = all(isinstance(side, int) and side > 0 for side in block)
    return (rows, columns) if counts else None
