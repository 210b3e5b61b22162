"""Contraction of the factors of two blocks of samples into their kernel.

    k  logits in hand (c; 1 for a sum over logits)       n, R, T, p, q  as in factors

Kernels are kept as (k, n1, k, n2): the samples are the fast axis, so a product of
Grams runs over long rows. There are two ways, and ``by_positions`` tells which needs
fewer operations: Grams over all pairs of positions, or the gradient of every sample,
a slice of the parameters at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

# Of one temporary, small enough for a cache.
_TILE_BYTES = 4 << 20
# Of the gradients of all samples by a slice of the parameters.
_CHUNK_BYTES = 32 << 20
# An elementwise pass over a tile costs about as much as so many multiply-adds.
_PASS_COST = 16


@final
@dataclass(frozen=True, eq=False)
class Factors:
    """Both factors of one group on one block.

    Attributes:
        h: (n, R, T, p), indices (n, T), or None.
        g: (k, n, R, T, q).
        num_rows: V of an embedding; 0 for other layers.
    """

    h: Tensor | None
    g: Tensor
    num_rows: int = 0

    @property
    def indexed(self) -> bool:
        """Whether h are rows of the identity."""
        return self.num_rows > 0


@final
@dataclass(frozen=True)
class Size:
    """Sizes of both factors of a group for one sample.

    Attributes:
        groups: R.
        positions: T.
        p: Inputs; 0 for a vector of parameters, V for an embedding.
        q: Outputs.
        num_rows: V of an embedding; 0 for other layers.
    """

    groups: int
    positions: int
    p: int
    q: int
    num_rows: int

    @property
    def input_numel(self) -> int:
        """Numbers of h."""
        return self.groups * self.positions * (1 if self.num_rows else self.p)

    @property
    def gradient_numel(self) -> int:
        """Numbers of g for one logit."""
        return self.groups * self.positions * self.q

    @property
    def formed_numel(self) -> int:
        """Numbers of the gradient of a logit: the parameters."""
        return self.groups * max(1, self.p) * self.q


def by_positions(
    size: Size, *, num_samples: int, num_logits: int, num_pairs: int
) -> bool:
    """Whether Grams over positions need fewer operations than gradients of samples.

    Args:
        size: Of the factors.
        num_samples: That every sample meets.
        num_logits: k.
        num_pairs: Of logits that the kernel holds: k^2, or k for a trace.

    Returns:
        True for positions.
    """
    if not size.p:
        return True
    groups, positions, p, q = size.groups, size.positions, size.p, size.q
    gram = 1 if size.num_rows else p
    by_gram = groups * positions**2 * (gram + num_pairs * (q + _PASS_COST))
    making = 2 * num_logits * groups * positions * q * gram
    # An embedding fills a table of V rows per sample before it is read.
    clearing = 2 * num_logits * size.num_rows * q
    meeting = num_samples * num_pairs * groups * p * q
    return num_samples * by_gram <= making + clearing + meeting


def add_by_positions(
    out: Tensor,
    one: Factors,
    two: Factors,
    *,
    trace: bool,
    symmetric: bool,
    memory: int,
) -> None:
    """Add a group's kernel by Grams over positions.

    Args:
        out: (k, n1, k, n2), or (1, n1, 1, n2) of the trace.
        one: Factors of the first block.
        two: Of the second; the same object for a symmetric kernel.
        trace: Sum over logits.
        symmetric: Fill only the part on and above the diagonal.
        memory: Bytes of all temporaries; the smallest tile may exceed them.
    """
    num_logits, n1, groups, t1, _ = one.g.shape
    n2, t2 = two.g.shape[1], two.g.shape[3]
    columns = 1 if trace else num_logits
    cell = t1 * t2 * columns * one.g.element_size()
    # A tile of products and its input Gram are held.
    tile_bytes = min(_TILE_BYTES, memory // 2)
    width = min(n2, max(1, tile_bytes // cell))
    height = min(n1, max(1, tile_bytes // (cell * width)))
    for r0, r1 in _ranges(n1, height):
        # Below its diagonal a trace is mirrored later.
        start = r0 if symmetric and trace else 0
        for c0, c1 in _ranges(n2, width, start):
            tile = out[:, r0:r1, :, c0:c1]
            for group in range(groups):
                gram = _gram(one, two, group, (r0, r1), (c0, c1))
                left = one.g[:, r0:r1, group].flatten(1, 2)
                # Once here, not for every row of logits.
                right = two.g[:, c0:c1, group].flatten(1, 2).contiguous()
                if trace:
                    _trace_tile(tile[0, :, 0], left, right, gram)
                else:
                    _full_tile(tile, left, right, gram, symmetric=symmetric)


def _full_tile(
    out: Tensor, left: Tensor, right: Tensor, gram: Tensor | None, *, symmetric: bool
) -> None:
    """Left (k, n1 T1, q), right (k, n2 T2, q), gram (n1, T1, n2, T2)."""
    k, n1, _, n2 = out.shape
    cells = left.shape[1] * right.shape[0] * right.shape[1] * left.element_size()
    # Long products run faster; pairs of logits below the diagonal would be wasted.
    step = 1 if symmetric else max(1, _TILE_BYTES // cells)
    for i, stop in _ranges(k, step):
        first = i if symmetric else 0
        product = left[i:stop].flatten(0, 1) @ right[first:].flatten(0, 1).T
        rows = out[i:stop, :, first:]
        if gram is None:
            rows.add_(product.view(rows.shape))
        elif left.shape[1] == n1 and right.shape[1] == n2:
            rows.addcmul_(product.view(rows.shape), gram.view(n1, 1, n2))
        else:
            t1, t2 = gram.shape[1], gram.shape[3]
            parts = product.view(stop - i, n1, t1, k - first, n2, t2)
            rows.add_(parts.mul_(gram[:, :, None]).sum((2, 5)))


def _trace_tile(out: Tensor, left: Tensor, right: Tensor, gram: Tensor | None) -> None:
    product = left[0] @ right[0].T
    for i in range(1, left.shape[0]):
        product.addmm_(left[i], right[i].T)
    n1, n2 = out.shape
    if gram is None:
        out.add_(product)
    elif product.shape == out.shape:
        out.addcmul_(product, gram.view(n1, n2))
    else:
        t1, t2 = gram.shape[1], gram.shape[3]
        out.add_(product.view(n1, t1, n2, t2).mul_(gram).sum((1, 3)))


def _gram(
    one: Factors,
    two: Factors,
    group: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Tensor | None:
    """Inner products of inputs (n1, T1, n2, T2); None where all are one."""
    if one.h is None or two.h is None:
        return None
    h1, h2 = one.h[slice(*rows)], two.h[slice(*columns)]
    if one.indexed:
        equal = h1[:, :, None, None] == h2[None, None]
        return equal.to(one.g.dtype)
    left, right = h1[:, group], h2[:, group]
    product = left.flatten(0, 1) @ right.flatten(0, 1).T
    return product.view(*left.shape[:2], *right.shape[:2])


def add_by_gradients(
    out: Tensor,
    one: Factors,
    two: Factors,
    *,
    trace: bool,
    symmetric: bool,
    memory: int,
) -> None:
    """Add a group's kernel by gradients of samples, a slice of parameters at a time.

    Args:
        out: (k, n1, k, n2), or (1, n1, 1, n2) of the trace.
        one: Factors of the first block.
        two: Of the second; the same object for a symmetric kernel.
        trace: Sum over logits.
        symmetric: Fill only the part on and above the diagonal.
        memory: Bytes of all temporaries; the smallest tile may exceed them.
    """
    num_logits = one.g.shape[0]
    for groups, q in _slices(one, two, min(_CHUNK_BYTES, memory // 2)):
        left = _sample_gradients(one, groups, q)
        right = left if two is one else _sample_gradients(two, groups, q)
        if trace:
            for i in range(num_logits):
                out[0, :, 0].addmm_(left[i], right[i].T)
            continue
        for i in range(num_logits):
            first = i if symmetric else 0
            product = left[i] @ right[first:].flatten(0, 1).T
            out[i, :, first:].add_(product.view(out.shape[1], -1, out.shape[3]))


def _slices(
    one: Factors, two: Factors, chunk_bytes: int
) -> Iterator[tuple[slice, slice]]:
    """Groups and outputs whose gradients are held at a time."""
    num_logits, n1, groups, _, q = one.g.shape
    assert one.h is not None
    p = one.num_rows or one.h.shape[-1]
    samples = n1 if two is one else n1 + two.g.shape[1]
    column = num_logits * samples * p * one.g.element_size()
    width = min(q, max(1, chunk_bytes // column))
    depth = max(1, chunk_bytes // (column * q)) if width == q else 1
    for r0, r1 in _ranges(groups, depth):
        for q0, q1 in _ranges(q, width):
            yield slice(r0, r1), slice(q0, q1)


def _sample_gradients(factors: Factors, groups: slice, q: slice) -> Tensor:
    """A slice of the gradients of samples: (k, n, parameters)."""
    g = factors.g[:, :, groups, :, q]
    h = factors.h
    assert h is not None
    if not factors.indexed:
        h = h[:, groups]
    depth, width = g.shape[2], g.shape[-1]
    p = factors.num_rows or h.shape[-1]
    made = g.new_empty(*g.shape[:2], depth * p * width)
    for part, place in zip(g, made, strict=True):
        form(h, part, factors.num_rows, place)
    return made


def form(h: Tensor, g: Tensor, num_rows: int, out: Tensor) -> None:
    """Gradients of samples for one logit, ``sum_t h_t g_t^T``.

    Args:
        h: Input factor.
        g: (n, R, T, q).
        num_rows: V of an embedding; 0 for other layers.
        out: Where to write, (n, R p q), contiguous.
    """
    n, groups, _, q = g.shape
    if num_rows:
        table = out.view(n * num_rows, q).zero_()
        offset = torch.arange(n, device=g.device)[:, None] * num_rows
        table.index_add_(0, (h + offset).flatten(), g.reshape(-1, q))
        return
    place = out.view(n * groups, -1, q)
    torch.bmm(h.flatten(0, 1).mT, g.flatten(0, 1), out=place)


def _ranges(total: int, step: int, start: int = 0) -> Iterator[tuple[int, int]]:
    for begin in range(start, total, step):
        yield begin, min(begin + step, total)
