"""A weight matrix made ready for linear algebra: tall, finite, harmlessly scaled.

Scaling is by a power of two, so it is exact; it happens only where the entries would
overflow or underflow when squared. Half and quarter precision are cast block by
block, never as a whole in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.value import Value

# float64 unit roundoff; `EPS` itself is the spacing at one.
EPS = torch.finfo(torch.float64).eps
UNIT_ROUNDOFF = EPS / 2

# A block of 1 MiB stays in the second-level cache between two products with it.
_CACHE_BYTES = 1 << 20
# Largest entries within 2**-40 .. 2**40 are safe even when squared in float32 sums.
_SAFE_EXPONENT = 40


@dataclass(frozen=True, eq=False)
class Operand:
    """A matrix ``A * 2**exponent`` with ``A`` tall (rows >= columns).

    Attributes:
        tensor: (rows, cols) as stored, rows >= cols; a transposed view of a wide one.
        exponent: The true matrix is the scaled one times ``2**exponent``.
        amax: Largest absolute entry as stored; NaN or infinite when an entry is.
    """

    tensor: Tensor
    exponent: int
    amax: float

    @property
    def rows(self) -> int:
        """Number of rows, the longer side."""
        return self.tensor.shape[0]

    @property
    def cols(self) -> int:
        """Number of columns, the shorter side."""
        return self.tensor.shape[1]

    @property
    def is_cpu(self) -> bool:
        """Whether the entries are in host memory."""
        return self.tensor.device.type == "cpu"

    def blocks(self, dtype: torch.dtype, *, num_rows: int = 0) -> Iterator[Tensor]:
        """Yield blocks of rows of the scaled matrix in ``dtype``.

        A block is a view where dtype and scale allow it, else a buffer that the next
        block overwrites; read-only either way.

        Args:
            dtype: float32 or float64.
            num_rows: Rows of a block; by default what fits into the cache.

        Yields:
            Tensors of shape (at most num_rows, cols), in the memory order of the
            matrix.
        """
        row_bytes = max(self.cols, 1) * torch.finfo(dtype).bits // 8
        # A device has no such cache and dislikes many small blocks.
        block_bytes = _CACHE_BYTES if self.is_cpu else 256 * _CACHE_BYTES
        step = num_rows or max(block_bytes // row_bytes, 1)
        buffer: Tensor | None = None
        for part in torch.split(self.tensor, step):
            if part.dtype == dtype and not self.exponent:
                yield part
                continue
            if buffer is None or buffer.shape != part.shape:
                # Memory order kept: a transposing copy is slow.
                buffer = torch.empty_like(part, dtype=dtype)
            if self.exponent:
                buffer.copy_(self.scaled(part, dtype))
            else:
                buffer.copy_(part)
            yield buffer

    def scaled(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a part of ``tensor`` in ``dtype`` and divided by ``2**exponent``."""
        if not self.exponent:
            return part.to(dtype)
        # Scale in float64, before narrowing: 1e200 has no float32.
        return ldexp(part.to(torch.float64), -self.exponent).to(dtype)


class FrobeniusSum:
    """Frobenius norm of a matrix that passes by in blocks, summed in float64."""

    def __init__(self) -> None:
        self._total = 0.0
        self._longest = self._count = 0

    def add(self, block: Tensor) -> None:
        """Add the squares of a float64 block."""
        flat = block.reshape(-1)
        self._total += float(torch.dot(flat, flat))
        self._longest = max(self._longest, flat.numel())
        self._count += 1

    def value(self) -> Value:
        """Return the norm with the proved error of blocked summation."""
        norm = math.sqrt(self._total)
        # Squares and a dot product of length L: gamma_L; the square root halves it.
        # Taken whole, for the sake of the square root's and the products' own rounding.
        terms = self._longest + self._count + 4
        return Value.around(norm, norm * UNIT_ROUNDOFF * terms, "certified")


def make_operand(W: Tensor) -> Operand:
    """Return the tall, scaled operand of a matrix.

    Args:
        W: Real floating-point tensor of shape (m, n), any precision, any device.

    Returns:
        The operand; its ``amax`` tells a zero or non-finite matrix.

    Raises:
        ArgumentTypeError: If ``W`` is not a tensor.
        ShapeError: If ``W`` is not 2-D.
        DomainError: If ``W`` is complex, integer, sparse or has no storage.
    """
    if not isinstance(W, Tensor):
        raise ArgumentTypeError(
            f"a spectrum is measured of a torch.Tensor, got {type(W).__name__}; "
            "convert first, e.g. torch.as_tensor(W)"
        )
    if W.ndim != 2:
        raise ShapeError(
            f"a spectrum is defined for a 2-D tensor, got shape {tuple(W.shape)}; "
            "choose a view, e.g. W.reshape(W.shape[0], -1) for a convolution"
        )
    if W.layout != torch.strided:
        raise DomainError(
            f"a spectrum is measured of a dense tensor, got layout {W.layout}; "
            "convert first, e.g. W.to_dense()"
        )
    if not W.is_floating_point():
        raise DomainError(
            f"a spectrum needs real floating-point entries, got {W.dtype}; "
            "convert first, e.g. W.to(torch.float32)"
        )
    if W.device.type == "meta":
        raise DomainError(
            "a spectrum needs entries, got a tensor on the meta device; "
            "load the weights first"
        )
    W = W.detach()
    tall = W if W.shape[0] >= W.shape[1] else W.T
    amax = _amax(W)
    exponent = 0
    if math.isfinite(amax) and amax > 0.0:
        size = math.frexp(amax)[1]
        exponent = size if abs(size) > _SAFE_EXPONENT else 0
    return Operand(tall, exponent, amax)


def _amax(W: Tensor) -> float:
    if W.numel() == 0:
        return 0.0
    if W.element_size() < 4:
        # float8 has no reductions, and half reductions are slow on the CPU.
        parts = [_amax(part.to(torch.float32)) for part in torch.split(W, 4096)]
        return math.nan if any(map(math.isnan, parts)) else max(parts)
    # In the order of memory: it would copy a transposed matrix as a whole.
    low, high = torch.aminmax(W.mT if W.stride(0) < W.stride(1) else W)
    return max(-float(low), float(high))


def ldexp(x: Tensor, exponent: int) -> Tensor:
    """Return ``x * 2**exponent`` without overflow of the factor itself."""
    # Two factors: 2**1074 itself overflows.
    half = exponent // 2
    return x.mul(2.0**half).mul_(2.0 ** (exponent - half))
