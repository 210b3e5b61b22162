"""One pass over each tensor gives the sums of squares, or of products, of many laws.

A family of laws is a sum over its parameters, h(w) = sum_p h_p(w_p); a `Reading` holds
the parts h_p, so that each can be weighted by its own learning rate afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from spectrank.invariance.watching.blocks import Workspace, sums_of

Parts = Mapping[str, Tensor]
_View = tuple[int, ...]
_Axes = tuple[int, ...]
_Key = tuple[str, _View, _Axes]
_Sums = dict[_Key, Tensor]
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
        self._workspace = Workspace(device)
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
        points: bool = False,
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
            points: Whether ``tensors`` are weights, of which offsets of a law are taken
                off, and no displacements.

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
                    found = sums_of(
                        x, other, view, axes, factor, self._workspace, dtype
                    )
                    sums |= {(name, view, a): s for a, s in found.items()}
        parts = tuple(
            {
                name: self._part(
                    part if points else part.homogeneous,
                    tensors,
                    others,
                    factors.get(name, 1.0),
                    sums,
                )
                for name, part in law.items()
                if name in tensors and (linear or part.form != "linear")
            }
            for law in self._laws
        )
        if others is not None:
            return Reading(parts, ())
        sizes = tuple(
            {
                name: self._scattered(part, sums) + _rows(found[name]).abs()
                if law[name].offsets
                # Squares times one factor: their size is their absolute value.
                else found[name].abs()
                if id(law[name]) in self._plain
                else self._scattered(part, sums)
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
        if law.form == "squares" and not law.offsets:
            return self._scattered(law, sums)
        (name,) = law.parameters
        if law.offsets:
            return self._centred(law, tensors[name], others, scale)
        scaled = {name: tensors[name].detach().double() * scale}
        if others is None:
            return evaluate(law, scaled).to(self._device)
        # Of a linear law the polar form reads the second argument alone.
        second = {name: others[name].detach().double()}
        if law.form == "linear":
            second[name] = second[name] * scale
        return polar(law, scaled, second).to(self._device)

    def _centred(
        self, law: Law, point: Tensor, others: Mapping[str, Tensor] | None, scale: float
    ) -> Tensor:
        """Value or polar form at a point of which offsets are taken off first."""
        (name,) = law.parameters
        if others is None:
            return evaluate(law, {name: point}).to(self._device) * scale**2
        second = {name: others[name].detach().double() * scale}
        return polar(law, {name: point}, second).to(self._device)

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


def _rows(value: Tensor) -> Tensor:
    """Of a matrix of features its diagonal, the squared norms of their rows."""
    return value.diagonal() if value.dim() == 2 else value


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
    every = np.arange(term.num_rows)
    rows = every if term.rows is None else term.rows
    # Columns that a block leaves out are counted: a size is an upper bound.
    size = np.full(len(every), abs(term.coefficient))
    if term.summed:
        # The square of a sum of n numbers is at most n times the sum of squares.
        every, size = np.zeros_like(every), size * len(every)
    return SquareTerm(term.parameter, term.view, term.axes, every, rows, size)


def _by_parameter(law: Law) -> dict[str, Law]:
    terms: dict[str, list[Term]] = {}
    for term in law.terms:
        terms.setdefault(term.parameter, []).append(term)
    return {name: replace(law, terms=tuple(found)) for name, found in terms.items()}


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
