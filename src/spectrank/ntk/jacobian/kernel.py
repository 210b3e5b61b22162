"""Contraction of Jacobian blocks into a kernel; the kernel by products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spectrank.ntk.jacobian.blocks import Block, Layout
from spectrank.ntk.jacobian.products import VectorProducts
from spectrank.ntk.jacobian.rows import Rows

Progress = Callable[[int, int], object]
Found = dict[str, Tensor]


def jacobian_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None,
    *,
    params: Sequence[str],
    layout: Layout,
    out: Tensor,
    products: bool = False,
    progress: Progress | None = None,
) -> None:
    r"""Add :math:`J_1 J_2^T` of the chosen parameters to a kernel, block by block.

    By contraction both Jacobian blocks are formed and multiplied; by products each row
    of the second is sent through the first by forward mode, so that only one block is
    formed. Without ``x2`` each pair of blocks is computed once and mirrored, so that
    the result is symmetric to the last bit. Source (derived): the definition;
    ``tests/ntk/test_ntk_agreement.py``.

    Args:
        model: To be used inside ``differentiable``.
        x1: (n1, ...).
        x2: (n2, ...); None for ``x1``.
        params: Names of the parameters.
        layout: Blocks and form of the kernel.
        out: (n1, n2, c, c) for ``full``, else (n1, n2); added to.
        products: Whether by products.
        progress: Called with pairs of blocks done and in all, after each.
    """
    rows = Rows(model, params)
    meet = _Products(rows, layout) if products else _Contraction(rows, layout)
    other = x1 if x2 is None else x2
    total = layout.num_pairs(len(x1), None if x2 is None else len(x2))
    done = 0
    for block, partners in layout.pairs(len(x1), None if x2 is None else len(x2)):
        meet.hold(x1[block.samples], block)
        for partner in partners:
            same = x2 is None and partner == block
            found = meet.with_block(other[partner.samples], partner, same=same)
            _add(out, found, block, partner, mirrored=x2 is None)
            done += 1
            if progress is not None:
                progress(done, total)


class _Contraction:
    """Kernel blocks as products of two Jacobian blocks."""

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self._rows, self._layout = rows, layout
        self._held: Found = {}

    def _make(self, x: Tensor, block: Block) -> Found:
        like = next(iter(self._rows.values.values()))
        return self._rows(x, self._layout.cotangents(block.outputs, like))

    def hold(self, x: Tensor, block: Block) -> None:
        self._held = {}  # The old block goes before the new one comes.
        self._held = self._make(x, block)

    def with_block(self, x: Tensor, block: Block, *, same: bool) -> Tensor:
        other = self._held if same else self._make(x, block)
        full = self._layout.outputs == "full"
        total: Tensor | None = None
        for name, left in self._held.items():
            right = other[name]
            b1, k1, _ = left.shape
            b2, k2, _ = right.shape
            if full:
                part = left.reshape(b1 * k1, -1) @ right.reshape(b2 * k2, -1).T
            else:
                part = left.reshape(b1, -1) @ right.reshape(b2, -1).T
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.reshape(b1, k1, b2, k2).permute(0, 2, 1, 3) if full else total


class _Products:
    """Kernel blocks as rows of one Jacobian sent through the other."""

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self._rows, self._layout = rows, layout
        self._products = VectorProducts(rows)

    def hold(self, x: Tensor, block: Block) -> None:
        self._x, self._block, self._checked = x, block, False

    def with_block(self, x: Tensor, block: Block, *, same: bool) -> Tensor:
        values = self._rows.values
        like = next(iter(values.values()))
        cotangents = self._layout.cotangents(block.outputs, like)
        k = len(cotangents)
        directions = {
            name: rows.reshape(len(x) * k, *values[name].shape)
            for name, rows in self._rows(x, cotangents).items()
        }
        pushed = self._products.push(self._x, directions, check=not self._checked)
        self._checked = True
        found = pushed.reshape(len(x), k, *pushed.shape[1:]).permute(2, 0, 3, 1)
        if self._layout.outputs == "full":
            return found[:, :, self._block.outputs]
        # Both sides carry the same combinations of outputs: only equal ones meet.
        return torch.einsum("abik,ki->ab", found, cotangents)


def _add(
    out: Tensor, found: Tensor, block: Block, partner: Block, *, mirrored: bool
) -> None:
    full = found.ndim == 4
    if mirrored and block == partner:
        found = _symmetric(found)
    _index(out, block, partner, full).add_(found)
    if mirrored and block != partner:
        back = found.permute(1, 0, 3, 2) if full else found.T
        _index(out, partner, block, full).add_(back)


def _index(out: Tensor, left: Block, right: Block, full: bool) -> Tensor:
    part = out[left.samples, right.samples]
    return part[:, :, left.outputs, right.outputs] if full else part


def _symmetric(found: Tensor) -> Tensor:
    """Mirror the upper triangle: a product A A^T is not symmetric to the last bit."""
    if found.ndim == 2:
        return found.triu() + found.triu(1).T
    b, _, k, _ = found.shape
    square = found.permute(0, 2, 1, 3).reshape(b * k, b * k)
    whole = square.triu() + square.triu(1).T
    return whole.reshape(b, k, b, k).permute(0, 2, 1, 3)
