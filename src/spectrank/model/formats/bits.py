"""Values of a few bits each, packed densely into words of 32, lowest bits first."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor


def unpack_bits(words: Tensor, bits: int, count: int) -> Tensor:
    """Unsigned values of a dense stream of bits along the last axis.

    Value i takes bits i * bits to (i + 1) * bits of its row, also across words: three
    bits do so in every third word.
    Source (derived): against the packers of auto-gptq and compressed-tensors,
    tests/model/formats/test_packed.py.

    Args:
        words: (rows, words), int32.
        bits: Of one value, 1 to 8.
        count: Values per row; what is beyond is padding.

    Returns:
        (rows, count), float32.
    """
    if bits in {4, 8} and sys.byteorder == "little":
        # Whole bytes and their halves: several times as fast as words.
        raw = words.contiguous().view(torch.uint8)
        if bits == 8:
            return raw[:, :count].to(torch.float32)
        counting = torch.arange(16, dtype=torch.float32, device=raw.device)
        return look_up(raw, counting, lower_first=True)[:, :count]
    shared = math.gcd(bits, 32)
    span, values = bits // shared, 32 // shared
    rows, length = words.shape
    # Rows that end inside a period: the rest of it is padding.
    missing = -length % span
    if missing:
        words = torch.nn.functional.pad(words, (0, missing))
    groups = words.reshape(rows, -1, span)
    found = words.new_empty(rows, groups.shape[1], values, dtype=torch.uint8)
    for j in range(values):
        word, shift = divmod(j * bits, 32)
        code = groups[:, :, word] >> shift
        if shift + bits > 32:
            # The shift of a negative word has filled the upper bits with ones.
            low = code & ((1 << (32 - shift)) - 1)
            code = low | (groups[:, :, word + 1] << (32 - shift))
        found[:, :, j] = (code & ((1 << bits) - 1)).to(torch.uint8)
    return found.reshape(rows, -1)[:, :count].to(torch.float32)


def look_up(raw: Tensor, table: Tensor, *, lower_first: bool) -> Tensor:
    """The entries of a table that both halves of each byte name.

    Args:
        raw: (..., bytes), uint8.
        table: (16,).
        lower_first: Whether the lower half of a byte comes first.

    Returns:
        (..., 2 * bytes), dtype of the table.
    """
    byte = torch.arange(256, device=table.device)
    pair = (table[byte & 15], table[byte >> 4])
    pairs = torch.stack(pair if lower_first else pair[::-1], dim=1)
    # One look-up for two values, and no index wider than it has to be.
    found = pairs.index_select(0, raw.flatten().to(torch.int32))
    return found.reshape(*raw.shape[:-1], 2 * raw.shape[-1])


def num_words(count: int, bits: int) -> int:
    """Words that a row of values takes.

    Args:
        count: Values.
        bits: Of one value.

    Returns:
        The number of words, the last one padded.
    """
    return -(-count * bits // 32)
