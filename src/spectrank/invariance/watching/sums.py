"""One pass over each tensor gives the sums of squares, or of products, of many laws.

A family of laws is a sum over its parameters, h(w) = sum_p h_p(w_p); a `Reading` holds
the parts h_p, so that each can be weighted by its own learning rate afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.invariance.laws import (
    GramTerm,
    Law,
    LinearTerm,
    SquareTerm,
    Term,
    evaluate,
    polar,
)

Parts = Mapping[str, Tensor]
_View = tuple[int, ...]
_Axes = tuple[int, ...]
_Key = tuple[str, _View, _Axes]
_Sums = dict[_Key, Tensor]
# Of a block, which stays in the second-level cache. A pass over a 1024 x 1024 float32
# matrix takes 0.8 ms so, 1.6 ms in one piece, and 0.4 ms where squares are float32.
_BLOCK_BYTES = 1 << 19
# Rates above this may lift what underflows in float32.
_LARGEST_SCALE = 1e3
# Relative error of sums of float32 squares, a few times that of a blocked product.
COARSE = 2.0**-18


@final
@dataclass(frozen=True, eq=False)
class Reading:
    """Parts of all families at one moment.

    Attributes:
        parts: For each family, parameter to h_p or to the polar form; float64, in the
            shape of the law. Parameters that were not given are absent.
        sizes: For each family, parameter to the sum of |coefficient| * square over the
            entries that a law reads; empty for polar forms. In the shape of the law, of
            a matrix (n,): of the row.
    """

    parts: tuple[Parts, ...]
    sizes: tuple[Parts, ...]


@final
class Reader:
    """Reads families of laws off tensors.

    Args:
        laws: The families.
        device: Where the parts are added up.
    """

    def __init__(self, laws: Sequence[Law], device: torch.device) -> None:
        self._device = device
        self._laws = [_by_parameter(law) for law in laws]
        self._sizes = [_by_parameter(size_law(law)) for law in laws]
        self._keys: dict[str, dict[_View, set[_Axes]]] = {}
        for law in (*self._laws, *self._sizes):
            for part in law.values():
                self._register(part)
        self._indices: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        # Parts that are one factor times the sums as they stand.
        self._plain: dict[int, float] = {}
        for law in (*self._laws, *self._sizes):
            for part in law.values():
                self._prepare(part)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters that a family reads."""
        return tuple(dict.fromkeys(p for law in self._laws for p in law))

    def read(
        self,
        tensors: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None = None,
        *,
        scales: Mapping[str, float] | None = None,
        linear: bool = True,
        coarse: bool = False,
    ) -> Reading:
        """Parts of the values at ``tensors``, or of the polar forms with ``others``.

        Args:
            tensors: Parameter to values; those that are absent are left out.
            others: Parameter to values, for B(tensors, others).
            scales: Parameter to a factor of ``tensors``; 1 where absent. It is applied
                before squares are taken: (1e-200)**2 underflows.
            linear: Whether families of linear laws have parts.
            coarse: Whether squares of float32 tensors may be taken in float32, with a
                relative error of ``COARSE``.

        Returns:
            The parts.
        """
        factors = scales or {}
        sums: _Sums = {}
        for name, views in self._keys.items():
            if name in tensors:
                other = None if others is None else others[name]
                x, factor = tensors[name], factors.get(name, 1.0)
                fast = coarse and other is None and factor <= _LARGEST_SCALE
                dtype = x.dtype if fast else torch.float64
                for view, axes in views.items():
                    found = sums_of(x, other, view, axes, factor, dtype)
                    sums |= {(name, view, a): s for a, s in found.items()}
        parts = tuple(
            {
                name: self._part(part, tensors, others, factors.get(name, 1.0), sums)
                for name, part in law.items()
                if name in tensors and (linear or part.form != "linear")
            }
            for law in self._laws
        )
        if others is not None:
            return Reading(parts, ())
        sizes = tuple(
            {
                # Squares times one factor: their size is their absolute value.
                name: self._scattered(part, sums)
                if id(law[name]) not in self._plain
                else found[name].abs()
                for name, part in size.items()
                if name in tensors
            }
            for law, size, found in zip(self._laws, self._sizes, parts, strict=True)
        )
        return Reading(parts, sizes)

    def _part(
        self,
        law: Law,
        tensors: Mapping[str, Tensor],
        others: Mapping[str, Tensor] | None,
        scale: float,
        sums: _Sums,
    ) -> Tensor:
        if law.form == "squares":
            return self._scattered(law, sums)
        (name,) = law.parameters
        scaled = {name: tensors[name].detach().double() * scale}
        if others is None:
            return evaluate(law, scaled).to(self._device)
        # Of a linear law the polar form reads the second argument alone.
        second = {name: others[name].detach().double()}
        if law.form == "linear":
            second[name] = second[name] * scale
        return polar(law, scaled, second).to(self._device)

    def _scattered(self, law: Law, sums: _Sums) -> Tensor:
        if law.terms[0] is law.terms[-1] and id(law) in self._plain:
            (term,) = law.terms
            found = sums[term.parameter, term.view, term.axes].to(self._device)
            return found * self._plain[id(law)]
        total = torch.zeros(law.shape, dtype=torch.float64, device=self._device)
        for term in law.terms:
            laws, indices, coefficients = self._indices[id(term)]
            found = sums[term.parameter, term.view, term.axes].to(self._device)
            total.index_add_(0, laws, coefficients * found[indices])
        return total

    def _prepare(self, law: Law) -> None:
        """Keep the indices of a part on the device, or one factor where that is all."""
        for term in law.terms:
            if not isinstance(term, SquareTerm):
                return
            self._indices[id(term)] = (
                torch.tensor(term.laws, device=self._device),
                torch.tensor(term.indices, device=self._device),
                torch.tensor(term.coefficients, device=self._device),
            )
        term = law.terms[0]
        assert isinstance(term, SquareTerm)
        every = np.arange(law.shape[0])
        whole = term.num_kept == len(every) and len(law.terms) == 1
        if whole and np.array_equal(term.laws, every):
            same = np.array_equal(term.indices, every)
            if same and len(set(term.coefficients.tolist())) == 1:
                self._plain[id(law)] = float(term.coefficients[0])

    def _register(self, law: Law) -> None:
        for term in law.terms:
            if isinstance(term, SquareTerm):
                views = self._keys.setdefault(term.parameter, {})
                views.setdefault(term.view, set()).add(term.axes)


def size_law(law: Law) -> Law:
    """Law of the squares that a law reads, all with a positive sign.

    Args:
        law: Any.

    Returns:
        Law of form ``squares`` and shape (n,): of sums and of linear laws the absolute
        coefficients, of a matrix the squared norm of each row.
    """
    terms = tuple(_size_term(term) for term in law.terms)
    return replace(law, form="squares", terms=terms, shape=law.shape[:1])


def _size_term(term: Term) -> SquareTerm:
    if not isinstance(term, GramTerm):
        sizes = np.abs(term.coefficients)
        return SquareTerm(
            term.parameter, term.view, term.axes, term.laws, term.indices, sizes
        )
    every = np.arange(term.num_features)
    rows = every if term.rows is None else term.rows
    # Columns that a block leaves out are counted: a size is an upper bound.
    size = np.full(len(every), abs(term.coefficient))
    return SquareTerm(term.parameter, term.view, term.axes, every, rows, size)


def _by_parameter(law: Law) -> dict[str, Law]:
    terms: dict[str, list[Term]] = {}
    for term in law.terms:
        terms.setdefault(term.parameter, []).append(term)
    return {name: replace(law, terms=tuple(found)) for name, found in terms.items()}


def sums_of(
    x: Tensor,
    y: Tensor | None,
    view: tuple[int, ...],
    wanted: set[tuple[int, ...]],
    scale: float,
    dtype: torch.dtype = torch.float64,
) -> dict[tuple[int, ...], Tensor]:
    """Sums of (scale x)^2, or of scale x y, over all but some axes, in one pass.

    Args:
        x: A tensor.
        y: Another of the same size; None for squares.
        view: Shape in which both are read.
        wanted: Sets of axes that are kept, each in the order wanted.
        scale: Factor of x.
        dtype: In which blocks are squared and added up; their sums are float64.

    Returns:
        Kept axes to the flat float64 sums.
    """
    x, y = x.detach().reshape(view), None if y is None else y.detach().reshape(view)
    if not view:
        square = (x.double() * scale) ** 2 if y is None else x.double() * y * scale
        return {axes: square.reshape(1) for axes in wanted}
    # A float32 number squared is far from underflow in float64.
    inside = scale if x.dtype == torch.float64 and y is None else 1.0
    outside = 1.0 if inside != 1.0 else (scale**2 if y is None else scale)
    kept = sorted({0}.union(*wanted))
    # Fewer axes are summed from the sums over more of them.
    finest = [axes for axes in wanted if not any(set(axes) < set(b) for b in wanted)]
    found: dict[_Axes, list[Tensor]] = {axes: [] for axes in finest}
    rest = [axis for axis in range(len(view)) if axis not in kept]
    for z in _blocks(x, y, inside, rest, dtype):
        for axes, pieces in found.items():
            piece = _summed(z, [k for k, a in enumerate(kept) if a not in axes])
            if 0 in axes or not pieces:
                pieces.append(piece.double())
            else:
                pieces[0] += piece
    fine = {axes: _joined(pieces, axes) * outside for axes, pieces in found.items()}
    return {axes: _coarser(axes, fine, view) for axes in wanted}


def _coarser(
    axes: tuple[int, ...], fine: Mapping[_Axes, Tensor], view: tuple[int, ...]
) -> Tensor:
    if axes in fine:
        return fine[axes]
    more = next(other for other in fine if set(axes) < set(other))
    sums = fine[more].reshape([view[axis] for axis in more])
    sums = sums.sum([k for k, axis in enumerate(more) if axis not in axes])
    left = [axis for axis in more if axis in axes]
    return sums.permute([left.index(axis) for axis in axes]).reshape(-1)


def _blocks(
    x: Tensor, y: Tensor | None, scale: float, rest: list[int], dtype: torch.dtype
) -> Iterator[Tensor]:
    """Blocks of rows, squared, with the axes in ``rest`` summed out.

    Yields:
        Tensors that share memory: one is done with before the next is asked for.
    """
    per_row = max(math.prod(x.shape[1:]), 1)
    block = _BLOCK_BYTES // dtype.itemsize
    rows = max(block // per_row, 1) if x.device.type == "cpu" else max(len(x), 1)
    shape = (min(rows, len(x)), *x.shape[1:])
    buffer = torch.empty(shape, dtype=dtype, device=x.device)
    for start in range(0, len(x), rows):
        piece = x[start : start + rows]
        square = buffer[: len(piece)]
        if dtype == x.dtype and y is None and scale == 1.0:
            torch.mul(piece, piece, out=square)
        else:
            square.copy_(piece)
            if scale != 1.0:
                square.mul_(scale)
            square.mul_(square if y is None else y[start : start + rows])
        yield square.sum(rest) if rest else square


def _summed(z: Tensor, axes: list[int]) -> Tensor:
    if not axes:
        return z.clone()
    if z.ndim == 2 and len(axes) == 1:
        # A product with ones is twice as fast as a sum along the rows.
        (axis,) = axes
        ones = z.new_ones(z.shape[axis])
        return torch.mv(z if axis == 1 else z.T, ones)
    return z.sum(axes)


def _joined(pieces: list[Tensor], axes: tuple[int, ...]) -> Tensor:
    total = torch.cat(pieces) if 0 in axes else pieces[0]
    rank = {axis: place for place, axis in enumerate(sorted(axes))}
    return total.permute([rank[axis] for axis in axes]).reshape(-1)


def num_entries(law: Law) -> Tensor:
    """Sum of |coefficient| over the entries that each linear law adds up.

    Args:
        law: Of form ``linear``.

    Returns:
        (n,) float64 tensor.
    """
    total = np.zeros(law.shape)
    for term in law.terms:
        assert isinstance(term, LinearTerm)
        each = math.prod(term.view) / max(term.num_kept, 1)
        np.add.at(total, term.laws, np.abs(term.coefficients) * each)
    return torch.from_numpy(total)
