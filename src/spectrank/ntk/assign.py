"""Which algorithm serves which parameter, by a cost model that the caller overrides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from spectrank.errors import DomainError, UnknownNameError
from spectrank.ntk.cost import (
    backward_cost,
    jacobian_cost,
    layerwise_cost,
    products_cost,
)
from spectrank.ntk.jacobian.blocks import Layout
from spectrank.ntk.layerwise import Support, supported
from spectrank.ntk.memory import working_bytes
from spectrank.ntk.request import Request

Method = Literal["auto", "layerwise", "jacobian", "products"]
METHODS = ("auto", "layerwise", "jacobian", "products")


@final
@dataclass(frozen=True)
class Choice:
    """The algorithm of one parameter.

    Attributes:
        name: Of the parameter.
        algorithm: ``layerwise``, ``jacobian`` or ``products``.
        rule: Of the layerwise contraction, where it has one.
        reason: Why this algorithm.
        cost: Operations, the shared backward passes aside.
        memory: Bytes that its working arrays take at a time.
    """

    name: str
    algorithm: str
    rule: str | None
    reason: str
    cost: float
    memory: int


@final
@dataclass(frozen=True)
class Assignment:
    """The algorithms of all parameters.

    Attributes:
        choices: One for each parameter.
        layout: Blocks of the Jacobian; None where no parameter needs one.
        working: Bytes that working arrays may take.
        support: Rules of the layerwise contraction; None where it was not asked.
        shared_cost: Operations of the passes that parameters share, by algorithm.
    """

    choices: tuple[Choice, ...]
    layout: Layout | None
    working: int
    support: Support | None
    shared_cost: dict[str, float]

    def names(self, algorithm: str) -> tuple[str, ...]:
        """Parameters of an algorithm."""
        return tuple(c.name for c in self.choices if c.algorithm == algorithm)


def assign(
    request: Request,
    method: Method,
    block: int | None,
    memory: int | None,
    in_memory: int,
) -> Assignment:
    """Choose the algorithms.

    ``auto`` takes the layerwise contraction where a rule exists and counts no more
    operations than a Jacobian with its passes; the rest goes to the cheaper of Jacobian
    contraction and products, together, since they share their passes.

    Args:
        request: What is to be computed.
        method: ``auto`` or one algorithm for all.
        block: Samples per block, where the caller fixed it.
        memory: Ceiling in bytes.
        in_memory: What the result takes of it.

    Returns:
        The assignment.

    Raises:
        UnknownNameError: No such method.
        DomainError: ``layerwise`` has no rule for a parameter, or the ceiling is
            too low.
    """  # noqa: DOC502 - raised by the functions called
    if method not in METHODS:
        raise UnknownNameError(
            f"method must be one of {', '.join(METHODS)}, got {method!r}; "
            "'auto' chooses for each parameter"
        )
    support = None
    if method in ("auto", "layerwise"):
        support = supported(request.model, request.x1)
    chosen: dict[str, str] = {}
    if method == "layerwise":
        assert support is not None
        _refuse_unsupported(request, support)
        chosen = dict.fromkeys(request.params, "layerwise")
    elif support is not None:
        chosen = _by_cost(request, support)
    rest = [name for name in request.params if name not in chosen]
    other = str(method)
    if rest and method == "auto":
        other = _cheaper(request, rest)
    chosen |= dict.fromkeys(rest, other)
    row = _row_bytes(request, rest) if rest else 0
    working = working_bytes(memory, in_memory, row)
    layout = _layout(request, rest, other, working, block) if rest else None
    choices = tuple(
        _choice(request, name, chosen[name], support, layout, method)
        for name in request.params
    )
    shared = {}
    if len(rest) < len(request.params):
        shared["layerwise"] = backward_cost(request.job)
    if layout is not None:
        shared[other] = (
            products_cost(request.job)
            if other == "products"
            else backward_cost(request.job, _recomputed(request, layout))
        )
    return Assignment(choices, layout, working, support, shared)


def _refuse_unsupported(request: Request, support: Support) -> None:
    bad = [name for name in request.params if support[name] is None]
    if bad:
        raise DomainError(
            "method='layerwise' needs a rule for every parameter, "
            f"{len(bad)} have none, such as {bad[0]} ({support.reasons[bad[0]]}); "
            "use method='auto' or choose others by params="
        )


def _by_cost(request: Request, support: Support) -> dict[str, str]:
    job = request.job
    # A Jacobian needs its own backward passes, in which it forms the gradients that
    # the rule forms for itself where that is cheaper than Grams.
    passes = backward_cost(job)
    return {
        name: "layerwise"
        for name in request.params
        if support[name] is not None
        and _layerwise(request, name)
        <= jacobian_cost(job, request.numel(name)) + passes
    }


def _layerwise(request: Request, name: str) -> float:
    positions = request.probe.positions[name]
    return layerwise_cost(request.job, request.shape_of(name), positions)


def _cheaper(request: Request, names: list[str]) -> str:
    job = request.job
    contraction = sum(jacobian_cost(job, request.numel(name)) for name in names)
    if products_cost(job) < contraction + backward_cost(job):
        return "products"
    return "jacobian"


def _row_bytes(request: Request, names: list[str]) -> int:
    sizes = [request.numel(name) for name in names]
    # Both blocks and a copy of the largest parameter's rows, halved; beside them what
    # the backward pass keeps and what it makes of it.
    entries = sum(sizes) + max(sizes) // 2
    return entries * request.probe.dtype.itemsize + request.probe.activation_bytes


def _layout(
    request: Request, names: list[str], algorithm: str, working: int, block: int | None
) -> Layout:
    num_rows = max(1, working // (2 * _row_bytes(request, names)))
    c, n = request.probe.num_outputs, max(request.shape[:2])
    if algorithm == "products":
        # r rows go through b = r / c (full) or r samples at once.
        per = c if request.outputs == "full" else 1
        kept = max(request.probe.activation_bytes, 1)
        num_rows = max(1, min(num_rows, math.isqrt(working * per // (2 * kept))))
    return Layout.within(request.outputs, c, n, num_rows, block)


def _recomputed(request: Request, layout: Layout) -> float:
    """How often the rows of the second set are computed, on average."""
    blocks = math.ceil(request.shape[0] / layout.samples_per_block)
    if request.outputs == "full":
        blocks *= math.ceil(request.probe.num_outputs / layout.outputs_per_block)
    return 0.5 * (blocks + 1) if request.x2 is None else float(blocks)


def _choice(
    request: Request,
    name: str,
    algorithm: str,
    support: Support | None,
    layout: Layout | None,
    method: str,
) -> Choice:
    rule = None if support is None else support[name]
    numel, item = request.numel(name), request.probe.dtype.itemsize
    by_jacobian = jacobian_cost(request.job, numel)
    if algorithm == "layerwise":
        cost, memory = _layerwise(request, name), _kept(request, name)
    else:
        assert layout is not None
        rows = layout.samples_per_block * layout.outputs_per_block
        blocks = 1 if algorithm == "products" else 2
        cost = 0.0 if algorithm == "products" else by_jacobian
        memory = blocks * rows * numel * item
    if method != "auto":
        reason = f"method={method!r} was asked for"
    elif algorithm == "layerwise":
        reason = (
            f"the rule {rule} takes {cost:.2g} operations, "
            f"the Jacobian {by_jacobian:.2g} and its passes"
        )
    elif rule is None:
        assert support is not None
        reason = f"no layerwise rule: {support.reasons[name]}"
    else:
        reason = f"the Jacobian takes fewer operations than the rule {rule}"
    return Choice(name, algorithm, rule, reason, cost, memory)


def _kept(request: Request, name: str) -> int:
    """Bytes of the inputs and output gradients of a layer."""
    shape = request.shape_of(name)
    m = shape[0] if shape else 1
    d = request.numel(name) // m if m else 0
    s = max(request.probe.positions[name], 1)
    n1, n2 = request.shape[:2]
    samples = n1 if request.x2 is None else n1 + n2
    r1, r2 = request.job.rows
    rows = r1 if request.x2 is None else r1 + r2
    return s * (d * samples + m * rows) * request.probe.dtype.itemsize
