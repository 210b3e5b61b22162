"""Blocks of a kernel: how many samples they have, and where they are written."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError

_MIRROR = 1024


def block_size(
    block: int | None,
    memory: int,
    *,
    total: int,
    sample_bytes: int,
    cell_bytes: int,
) -> int:
    """Samples of a block: as many as memory allows, at least one.

    Args:
        block: Stated by the user; None to go by memory.
        memory: Bytes to work with beside the result.
        total: Samples of both sides; of one where the kernel is symmetric.
        sample_bytes: What one sample of one side holds.
        cell_bytes: What one pair of samples holds of a kernel that is written block by
            block; 0 where there is no such buffer.

    Returns:
        A positive number.

    Raises:
        DomainError: ``block`` or ``memory`` is not positive.
    """
    if block is not None and block < 1:
        raise DomainError(
            f"block is a number of samples of 1 or more, got {block}; leave it out "
            "for as many as memory allows"
        )
    if memory < 1:
        raise DomainError(
            f"memory is a positive number of bytes, got {memory}; leave it out for "
            "the default"
        )
    if block is not None:
        return block
    # Half for the two sides, a quarter for a buffer, the rest for slices and tiles.
    held = memory // (2 * max(1, sample_bytes))
    size = total if total <= held else held // 2
    if cell_bytes:
        size = min(size, int((memory / 4 / cell_bytes) ** 0.5))
    return max(1, size)


@final
class Blocks:
    """A kernel that is filled block by block.

    Args:
        shape: (k, n1, n2): logits held apart, samples of either side.
        full: Whether the kernel has axes of logits.
        symmetric: Whether a block also stands for the one across the diagonal.
        like: Of the dtype and on the device of the kernel.
        out: Where to write; None for memory of its own.

    Raises:
        ShapeError: ``out`` is not of the shape of the kernel.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        full: bool,
        symmetric: bool,
        like: Tensor,
        out: Tensor | None,
    ) -> None:
        k, n1, n2 = shape
        expected = (n1, n2, k, k) if full else (n1, n2)
        if out is not None and tuple(out.shape) != expected:
            raise ShapeError(
                f"out must have the shape {expected} of the kernel, "
                f"got {tuple(out.shape)}; make it with torch.empty{expected}"
            )
        self._symmetric = symmetric
        self._like = like
        self._held = like.new_zeros(k, n1, k, n2) if out is None else None
        if self._held is not None:
            out = self._held.permute(1, 3, 0, 2) if full else self._held[0, :, 0]
        assert out is not None
        self.result = out
        # As (k, n1, k, n2), whatever the layout.
        self._all = out.permute(2, 0, 3, 1) if full else out[None, :, None]

    def open(self, row: int, column: int, height: int, width: int) -> Tensor:
        """A block to add to.

        Args:
            row: First sample of the first side.
            column: Of the second.
            height: Samples of the first side.
            width: Of the second.

        Returns:
            Zeros (k, height, k, width).
        """
        place = self._all[:, row : row + height, :, column : column + width]
        if self._held is not None:
            return place
        return self._like.new_zeros(place.shape)

    def close(self, tile: Tensor, row: int, column: int, *, diagonal: bool) -> None:
        """Write a block that is complete, and the one across the diagonal.

        Args:
            tile: As ``open`` gave it.
            row: First sample of the first side.
            column: Of the second.
            diagonal: Whether only the part on and above its diagonal is filled.
        """
        if diagonal:
            mirror(tile)
        height, width = tile.shape[1], tile.shape[3]
        if self._held is None:
            self._all[:, row : row + height, :, column : column + width] = tile
        if self._symmetric and not diagonal:
            across = self._all[:, column : column + width, :, row : row + height]
            across.copy_(tile.permute(2, 3, 0, 1))


def mirror(tile: Tensor) -> None:
    """Copy the part above the diagonal below it: exactly symmetric.

    Args:
        tile: (k, n, k, n), filled for pairs of logits on and above their diagonal;
            among the samples of one logit, for pairs on and above theirs.
    """
    for i in range(tile.shape[0]):
        _mirror_samples(tile[i, :, i])
        for j in range(i + 1, tile.shape[0]):
            tile[j, :, i].copy_(tile[i, :, j].T)


def _mirror_samples(square: Tensor) -> None:
    for start in range(0, len(square), _MIRROR):
        rows = slice(start, start + _MIRROR)
        corner = square[rows, rows]
        corner.copy_(torch.triu(corner) + torch.triu(corner, 1).T)
        below = slice(start + _MIRROR, None)
        square[below, rows].copy_(square[rows, below].T)
