"""Reader of IDX, the format of MNIST: a magic number, dimensions, then raw bytes.

Layout (big endian): two zero bytes, a type code (8: unsigned byte), the number of
dimensions, one 4-byte size for each, then the entries with the last index fastest.
A file is not trusted: the header says how many bytes must follow, and exactly so many
are read, whatever a compressed file would expand to.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.data.dataset import DataError

MAX_BYTES = 1 << 30
"""Largest content that is read; MNIST's training images are 47 MB."""

_UNSIGNED_BYTE = 8


def parse_idx(raw: bytes, name: str, *, num_dims: int | None = None) -> Tensor:
    """Decode the bytes of an IDX file of unsigned bytes.

    Args:
        raw: The whole file, not compressed.
        name: Of the file, for messages.
        num_dims: The number of dimensions it must have; None for any.

    Returns:
        uint8 tensor of the shape that the header states, copied.

    Raises:
        DataError: The magic number, type, dimensions or length are wrong.
    """
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise DataError(
            f"an IDX file starts with two zero bytes and its type, {name} starts with "
            f"{raw[:4].hex() or 'nothing'}; it is another format or damaged"
        )
    if raw[2] != _UNSIGNED_BYTE:
        raise DataError(
            f"images and labels are IDX type 8 (unsigned bytes), {name} is of type "
            f"{raw[2]}; fetch the original file"
        )
    dims = raw[3]
    if dims == 0 or (num_dims is not None and dims != num_dims):
        raise DataError(
            f"{name} must have {num_dims or 'at least 1'} dimensions, its header "
            f"states {dims}; images and labels may be swapped"
        )
    header = 4 + 4 * dims
    sizes = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, header, 4)]
    # Python integers do not overflow, as a product of 32-bit sizes would.
    expected = header + math.prod(sizes)
    if len(raw) < header or len(raw) != expected or 0 in sizes:
        raise DataError(
            f"{name} must have the {expected} bytes that its header states "
            f"({' x '.join(map(str, sizes))}), got {len(raw)}; it is truncated or "
            "damaged: fetch it again"
        )
    return torch.from_numpy(
        np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(sizes).copy()
    )


def unpacked(raw: bytes, name: str, *, limit: int = MAX_BYTES) -> bytes:
    """Decompress gzip; bytes that are not gzip come back as they are.

    Args:
        raw: Content of a file.
        name: Of the file, for messages.
        limit: Largest content allowed, so that a small file cannot fill the memory.

    Returns:
        The content.

    Raises:
        DataError: The stream is cut or damaged, or the content is larger.
    """
    if raw[:2] != b"\x1f\x8b":
        content = raw
    else:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
                content = stream.read(limit + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{name} must be a whole gzip file, it is not ({error}); fetch it again"
            ) from error
    if len(content) > limit:
        raise DataError(
            f"{name} may hold at most {limit} bytes, it holds more; "
            "it is not the file it is named after"
        )
    return content
