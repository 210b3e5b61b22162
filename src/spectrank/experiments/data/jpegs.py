"""Images kept as JPEG files put end to end in one npz archive."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.data.dataset import DataError
from spectrank.extras import need


def decode_jpegs(archive: bytes) -> tuple[Tensor, Tensor]:
    """Decode an archive of JPEG files put end to end.

    Args:
        archive: An npz file with ``jpeg`` (bytes, uint8), ``offset`` (N + 1, int64)
            and ``label`` (N, uint8). Pickled objects in it are refused.

    Returns:
        (N, 3, 32, 32) uint8 images, red first, and (N,) int64 labels.

    Raises:
        DataError: An array is missing, of another shape, or an image is not RGB 32x32.
    """
    try:
        with np.load(io.BytesIO(archive), allow_pickle=False) as arrays:
            jpeg, offset, label = (arrays[k] for k in ("jpeg", "offset", "label"))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "CIFAR-10 is an npz file with jpeg, offset and label, got one that is not "
            f"({error}); fetch it again"
        ) from error
    steps = np.diff(offset)
    if (
        (jpeg.ndim, offset.ndim, label.ndim) != (1, 1, 1)
        or len(offset) != len(label) + 1
        or offset.dtype.kind not in "iu"
        or offset[0] != 0
        or offset[-1] != len(jpeg)
        or bool((steps <= 0).any())
    ):
        raise DataError(
            "offsets of N images must rise from 0 to the number of bytes, got "
            f"{len(offset)} offsets for {len(label)} labels; fetch the file again"
        )
    pillow = need("PIL.Image", "decoding CIFAR-10")
    images = np.empty((len(label), 32, 32, 3), dtype=np.uint8)
    with warnings.catch_warnings():
        # Pillow warns where a header claims a huge size; here that is an error.
        warnings.simplefilter("error")
        for i in range(len(label)):
            raw = jpeg[offset[i] : offset[i + 1]].tobytes()
            images[i] = _decoded(pillow, raw, i)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(label.astype(np.int64))


def _decoded(pillow: Any, raw: bytes, number: int) -> np.ndarray:
    try:
        image = pillow.open(io.BytesIO(raw), formats=["JPEG"])
        # Only the header is read so far: a claimed size of gigabytes is not unpacked.
        if image.size != (32, 32) or image.mode != "RGB":
            raise DataError(
                f"an image of CIFAR-10 is RGB, 32 x 32, number {number} is "
                f"{image.mode}, {image.size}; fetch the file again"
            )
        return np.asarray(image)
    except (OSError, SyntaxError, Warning) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"image {number} must be a whole JPEG file, it is not ({error}); "
            "fetch the file again"
        ) from error
