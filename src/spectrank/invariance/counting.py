r"""How many independent laws a small net has, of any form: parameters minus orbit.

A function of the weights is conserved for every loss iff its gradient is orthogonal to
every field X(w) = grad_w <c, f(x; w)>, and so to all fields that their Lie brackets
generate. The dimension of what they span at a generic point is that of the orbit; the
rest of the parameters are labels of orbits, one law each. Brackets are exact (forward
over reverse differentiation, to any depth), no step is taken.

Source (stated): Marcotte, Gribonval & Peyre (2023), arXiv:2307.00144, for the count by
Lie algebras. Source (derived): tests/invariance/test_counting.py, known counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast, final

import polars as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from spectrank.errors import DomainError
from spectrank.invariance.laws import Law, polar_all
from spectrank.model.differentiation import differentiable, load_forward_mode
from spectrank.table import Table

# A direction counts if its singular value is above this, relative to the largest;
# rounding of nested derivatives is 1e-14 or so.
_NEW = 1e-11
_MIN_DEPTH = 3
_Tensors = Mapping[str, Tensor]
_Field = Callable[[Tensor, Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True)
class LawCount:
    """Laws of a net by the dimension of its orbits.

    Attributes:
        num_parameters: Learned parameters, tied ones once.
        dimensions: Of the span with brackets up to depth 0, 1, ..., at the draw of the
            weights with the largest orbit.
        num_laws: num_parameters minus the largest dimension.
        draws: num_laws of each draw; more than the smallest where a unit is dead.
        settled: Whether the dimension was the same at two depths in a row, or full.
        smallest_kept: Smallest singular value that was counted, relative.
        largest_dropped: Largest one that was not; far below, or the count is unsure.
        num_known: Independent ones among the laws given; None without.
    """

    num_parameters: int
    dimensions: tuple[int, ...]
    num_laws: int
    draws: tuple[int, ...]
    settled: bool
    smallest_kept: float
    largest_dropped: float
    num_known: int | None = None

    @property
    def num_unknown(self) -> int | None:
        """Laws that the given ones do not tell; None where none were given."""
        return None if self.num_known is None else self.num_laws - self.num_known

    def table(self) -> Table:
        """Return one row of kind ``law`` with what was counted.

        Returns:
            Row of metric ``num_laws``; status ``not_converged`` where deeper brackets
            might still lower it.
        """
        row = {
            "kind": "law",
            "subject": "model",
            "metric": "num_laws",
            "variant": "orbit dimension",
            "value": float(self.num_laws),
            "values": [float(count) for count in self.draws],
            "status": "ok" if self.settled else "not_converged",
            "num_parameters": self.num_parameters,
            "num_known": self.num_known,
            "num_unknown": self.num_unknown,
        }
        columns = dict.fromkeys(
            ("num_parameters", "num_known", "num_unknown"), pl.Int64
        )
        return Table.from_rows([row], columns=columns)


def count_laws(
    model: nn.Module,
    inputs: Tensor,
    *,
    laws: Iterable[Law] | None = None,
    seed: int = 0,
    num_draws: int = 4,
    zero_sum: bool = False,
    max_depth: int = 6,
) -> LawCount:
    r"""Number of independent laws of a small net: parameters minus orbit dimension.

    Exact for generic weights; a draw with dead or always active ReLU units overcounts,
    so the smallest over draws is taken. Laws are those for every loss and every target
    on the given inputs: with few inputs there are more. Cost grows as 4^depth times
    the square of the number of parameters; meant for up to a hundred. The model must
    be differentiable twice and run under ``torch.func.vmap``; its weights, buffers
    and the global random state are left as they are.
    Source (stated): Marcotte, Gribonval & Peyre (2023), arXiv:2307.00144.

    Args:
        model: A small net, run in the mode it is in, in float64.
        inputs: (n, ...) samples, generic and at least as many as parameters.
        laws: Known laws, of which the independent ones are counted.
        seed: Of weights and cotangents.
        num_draws: Points in weight space.
        zero_sum: Losses of logit differences only, as softmax cross-entropy.
        max_depth: Of the brackets; at least 3.

    Returns:
        The count.

    Raises:
        DomainError: Nothing is learned, or an option is out of its range.
    """
    learned = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    if not learned:
        raise DomainError(
            "laws are counted of learned parameters, got a model without; "
            "set requires_grad"
        )
    if max_depth < _MIN_DEPTH or num_draws < 1 or not len(inputs):
        raise DomainError(
            f"max_depth is at least {_MIN_DEPTH}, num_draws and the number of inputs "
            f"at least 1, got {max_depth}, {num_draws} and {len(inputs)}; "
            "dimensions at smaller depths are lower bounds only"
        )
    generator = torch.Generator().manual_seed(seed)
    output = _output(model, learned)
    field = grad(lambda w, x, c: (output(w, x) * c).sum())
    inputs = inputs.detach().double() if inputs.is_floating_point() else inputs
    orbits = []
    load_forward_mode()
    with differentiable(model):
        for _ in range(num_draws):
            weights = _drawn(learned, generator)
            shape = tuple(output(weights, inputs[0]).shape)
            data = _Data(inputs, shape, zero_sum, generator)
            orbits.append(_orbit(field, weights, data, max_depth))
    total = sum(p.numel() for p in learned.values())
    best = max(orbits, key=lambda orbit: (orbit.settled, orbit.dimensions[-1]))
    return LawCount(
        total,
        best.dimensions,
        total - best.dimensions[-1],
        tuple(total - orbit.dimensions[-1] for orbit in orbits),
        best.settled,
        best.smallest_kept,
        best.largest_dropped,
        None if laws is None else jacobian_rank(laws, learned, seed=seed),
    )


def jacobian_rank(
    laws: Iterable[Law], parameters: Mapping[str, Tensor], *, seed: int = 0
) -> int:
    """Number of independent laws: the rank of their Jacobian at a random point.

    Args:
        laws: The laws.
        parameters: Name of each learned parameter to a tensor of its shape.
        seed: Of the point.

    Returns:
        The rank, with relative threshold 1e-9.
    """
    laws, columns = list(laws), []
    if not laws:
        return 0
    point = _split(_drawn(parameters, torch.Generator().manual_seed(seed)), parameters)
    unit = torch.zeros(sum(p.numel() for p in parameters.values())).double()
    for k in range(len(unit)):
        unit[k] = 1.0
        found = polar_all(laws, point, _split(unit, parameters))
        columns.append(torch.cat([value.flatten() for value in found.values()]))
        unit[k] = 0.0
    return int(torch.linalg.matrix_rank(torch.stack(columns, 1), rtol=1e-9))


@final
@dataclass(frozen=True)
class _Orbit:
    dimensions: tuple[int, ...]
    settled: bool
    smallest_kept: float
    largest_dropped: float


@final
@dataclass(frozen=True)
class _Data:
    """Samples, and random cotangents for the outputs that they have."""

    inputs: Tensor
    output_shape: tuple[int, ...]
    zero_sum: bool
    generator: torch.Generator

    def draw(self, *shape: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.inputs), shape, generator=self.generator)
        c = _normal((*shape, *self.output_shape), self.generator)
        if self.zero_sum:
            c = c - c.mean(-1, keepdim=True)
        return self.inputs[chosen], c


def _orbit(field: _Field, weights: Tensor, data: _Data, max_depth: int) -> _Orbit:
    """Span of left-normed brackets [X_k, [..., [X_1, X_0]]] of random fields."""
    n = len(weights)
    found: list[Tensor] = []
    dimensions: list[int] = []
    kept, dropped, size, step = math.inf, 0.0, 1.0, 1.0
    for depth in range(max_depth + 1):
        x, c = data.draw(n + 4, depth + 1)
        rows = vmap(_bracket(field, depth), in_dims=(None, 0, 0))(weights, x, c)
        if depth == 0:
            size = float(rows.norm(dim=1).max()) or 1.0
            step = size / float(weights.norm())
        # A bracket that vanishes is rounding: sizes are compared to what the fields
        # would give, never to the bracket itself.
        found.append(rows / (size * step**depth))
        # All depths at once: directions that were weak at one depth are known to
        # 1e-8 only, and what deeper rows leave outside of them would count as new.
        s = torch.linalg.svdvals(torch.cat(found))
        # Nothing moves where all units are dead: no field, and no largest value.
        s = s / s[0] if float(s[0]) > 0 else s
        kept = min(s[s > _NEW].tolist(), default=math.inf)
        dropped = max(s[s <= _NEW].tolist(), default=0.0)
        dimensions.append(int((s > _NEW).sum()))
        settled = dimensions[-1] == n or (
            depth >= _MIN_DEPTH and dimensions[-1] == dimensions[-2]
        )
        if settled:
            break
    return _Orbit(tuple(dimensions), settled, kept, dropped)


def _bracket(field: _Field, depth: int) -> _Field:
    """[X_depth, [..., X_0]], with (x, c) of each field along the first axis."""
    if depth == 0:
        return lambda w, x, c: field(w, x[0], c[0])
    inner = _bracket(field, depth - 1)

    def bracket(w: Tensor, x: Tensor, c: Tensor) -> Tensor:
        def first(v: Tensor) -> Tensor:
            return field(v, x[depth], c[depth])

        def second(v: Tensor) -> Tensor:
            return inner(v, x, c)

        along_first = jvp(second, (w,), (first(w),))[1]
        along_second = jvp(first, (w,), (second(w),))[1]
        return cast(Tensor, along_first - along_second)

    return bracket


def _output(model: nn.Module, learned: _Tensors) -> Callable[[Tensor, Tensor], Tensor]:
    """f(w, x) of one sample, with the model's own state left alone."""
    fixed = {n: p.detach() for n, p in model.named_parameters() if n not in learned}
    fixed |= {n: b.detach().clone() for n, b in model.named_buffers()}
    fixed = {n: b.double() if b.is_floating_point() else b for n, b in fixed.items()}

    def output(w: Tensor, x: Tensor) -> Tensor:
        state = {**fixed, **_split(w, learned)}
        return cast(Tensor, functional_call(model, state, (x[None],)))

    return output


def _drawn(like: _Tensors, generator: torch.Generator) -> Tensor:
    """Normal entries; matrices are scaled so that signals keep their size."""
    parts = []
    for parameter in like.values():
        fan_in = math.prod(parameter.shape[1:])
        parts.append(_normal((parameter.numel(),), generator) / math.sqrt(fan_in))
    return torch.cat(parts)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _split(flat: Tensor, like: _Tensors) -> _Tensors:
    parts = torch.split(flat, [p.numel() for p in like.values()])
    return {
        name: part.reshape(p.shape)
        for (name, p), part in zip(like.items(), parts, strict=True)
    }
