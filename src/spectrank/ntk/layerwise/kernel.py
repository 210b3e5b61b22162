"""The kernel by layerwise contraction: blocks of samples, logits, groups.

    n  samples        c  logits of the model        k  logits that a kernel holds apart

Two blocks are held at a time, with their graphs. Gradients by position are kept for
all logits, as one product over all of them is faster; gradients that are summed into
those of samples are used logit by logit where the kernel is a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, final

from torch import Tensor, nn

from spectrank.errors import DomainError, UnknownNameError
from spectrank.ntk.checks import check_model
from spectrank.ntk.layerwise.blocks import Blocks, block_size
from spectrank.ntk.layerwise.contract import (
    Factors,
    add_by_gradients,
    add_by_positions,
    by_positions,
)
from spectrank.ntk.layerwise.passes import Side
from spectrank.ntk.layerwise.rules import Group, make_groups
from spectrank.ntk.layerwise.support import Support, supported

Outputs = Literal["full", "trace", "sum_logits"]
Progress = Callable[[int, int], object]

DEFAULT_MEMORY = 512 << 20


def layerwise_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs,
    params: frozenset[str],
    block: int | None = None,
    memory: int | None = None,
    out: Tensor | None = None,
    progress: Progress | None = None,
    support: Support | None = None,
) -> Tensor:
    r"""Empirical NTK :math:`K_{abij} = \sum_p \partial_p f_i(x_a) \partial_p f_j(x_b)`.

    Sum over the chosen parameters of input Grams times output-gradient Grams; standard
    parametrisation. Positive semi-definite to rounding, exactly symmetric without
    ``x2``. No gradient of a sample is held for more than a slice of one layer.
    Source (derived): test_layerwise_kernel, against Jacobians by autodiff.

    Args:
        model: Any module with outputs (n, c); it is left as it was.
        x1: Inputs (n1, ...).
        x2: Inputs (n2, ...); None for those of ``x1``.
        outputs: ``"full"``, the ``"trace"`` over logits (their plain sum), or
            ``"sum_logits"``, the kernel of the sum of all logits.
        params: Names of parameters, all with a rule; frozen ones too.
        block: Samples of a block; None for as many as ``memory`` allows.
        memory: Bytes to work with beside the result; None for 512 MiB. One sample of
            each set is held in any case.
        out: Where to write, (n1, n2, c, c) or (n1, n2); what it holds is lost. It may
            be mapped from a file.
        progress: Called with the blocks done and their number.
        support: Of this model, where it is known.

    Returns:
        ``out``, or a tensor of its shape. A full one is a view of (c, n1, c, n2):
        not contiguous.

    Raises:
        UnknownNameError: A name is no parameter.
        DomainError: A parameter has no rule, BatchNorm or dropout is in training
            mode, or ``block`` or ``memory`` is not positive.
        ShapeError: The outputs are not (batch, classes), or ``out`` does not fit.
        ArgumentTypeError: The model returns no tensor.
    """  # noqa: DOC502 - some are raised by the functions called
    groups, support = _groups(model, x1, params, support)
    job = _Job(model, groups, support, outputs)
    kernels = _run(job, x1, x2, (block, memory), out, progress, apart=False)
    return kernels[()]


def layer_kernels(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs,
    params: frozenset[str],
    block: int | None = None,
    memory: int | None = None,
    support: Support | None = None,
) -> dict[str, Tensor]:
    """The terms of ``layerwise_kernel``, one per layer; they sum to it.

    A term is of the parameters that the same calls use: weight and bias of a layer. It
    has the size of the whole kernel.
    Source (derived): test_layer_kernels_are_those_of_their_parameters.

    Args:
        model: Any module with outputs (n, c); it is left as it was.
        x1: Inputs (n1, ...).
        x2: Inputs (n2, ...); None for those of ``x1``.
        outputs: As for the kernel.
        params: Names of parameters, all with a rule.
        block: Samples of a block; None for as many as ``memory`` allows.
        memory: Bytes to work with beside the result; None for 512 MiB.
        support: Of this model, where it is known.

    Returns:
        Kernels by the names of their parameters, joined by ``" + "``.

    Raises:
        UnknownNameError: A name is no parameter.
        DomainError: A parameter has no rule, BatchNorm or dropout is in training
            mode, or ``block`` or ``memory`` is not positive.
        ShapeError: The outputs are not (batch, classes).
        ArgumentTypeError: The model returns no tensor.
    """  # noqa: DOC502 - some are raised by the functions called
    groups, support = _groups(model, x1, params, support)
    job = _Job(model, groups, support, outputs)
    kernels = _run(job, x1, x2, (block, memory), None, None, apart=True)
    return {
        " + ".join(p for g in groups if g.layers == layers for p in g.params): kernel
        for layers, kernel in kernels.items()
    }


@final
@dataclass(frozen=True)
class _Job:
    model: nn.Module
    groups: tuple[Group, ...]
    support: Support
    outputs: Outputs

    @property
    def trace(self) -> bool:
        return self.outputs == "trace"

    def side(self, x: Tensor) -> Side:
        return Side(self.model, self.groups, self.support.axes, x)

    def logits(self, side: Side) -> list[int | None]:
        if self.outputs == "sum_logits":
            return [None]
        return list(range(side.num_outputs))


def _groups(
    model: nn.Module, x: Tensor, params: frozenset[str], support: Support | None
) -> tuple[tuple[Group, ...], Support]:
    check_model(model)
    support = supported(model, x) if support is None else support
    if unknown := sorted(params - support.keys()):
        raise UnknownNameError(
            f"params must name parameters of the model, {unknown[0]!r} is none; "
            "take names of model.named_parameters()"
        )
    names = [name for name in support if name in params]
    for name in names:
        if support[name] is None:
            raise DomainError(
                "layerwise contraction needs a rule for every parameter, "
                f"{name} has none as {support.reasons[name]}; leave it to "
                "method='jacobian'"
            )
    if not names:
        raise DomainError(
            "a kernel is a sum over parameters, got none; name some in params="
        )
    return make_groups(model, names), support


def _run(
    job: _Job,
    x1: Tensor,
    x2: Tensor | None,
    limits: tuple[int | None, int | None],
    out: Tensor | None,
    progress: Progress | None,
    *,
    apart: bool,
) -> dict[tuple[str, ...], Tensor]:
    """The kernel, or one per set of layers."""
    symmetric = x2 is None
    others = x1 if x2 is None else x2
    memory = DEFAULT_MEMORY if limits[1] is None else limits[1]
    first = job.side(x1[:1])
    size = _block_size(job, first, limits[0], memory, buffered=out is not None)
    full = job.outputs == "full"
    shape = (first.num_outputs if full else 1, len(x1), len(others))
    # Groups of the same layers share a kernel: a convolution and its bias.
    keys = [group.layers if apart else () for group in job.groups]
    targets = {
        key: Blocks(shape, full=full, symmetric=symmetric, like=first.like, out=out)
        for key in dict.fromkeys(keys)
    }
    pairs = [
        (r, c)
        for r in range(0, len(x1), size)
        for c in range(r if symmetric else 0, len(others), size)
    ]
    one, at = first, -1
    for done, (r, c) in enumerate(pairs, start=1):
        if at != r:
            one, at = job.side(x1[r : r + size]), r
        two = one if symmetric and c == r else job.side(others[c : c + size])
        tiles = {
            key: blocks.open(r, c, one.num_samples, two.num_samples)
            for key, blocks in targets.items()
        }
        _add_pair(job, [tiles[key] for key in keys], (one, two), memory // 4)
        for key, blocks in targets.items():
            blocks.close(tiles[key], r, c, diagonal=two is one)
        if progress is not None:
            progress(done, len(pairs))
    return {key: blocks.result for key, blocks in targets.items()}


def _block_size(
    job: _Job, one: Side, block: int | None, memory: int, *, buffered: bool
) -> int:
    """Samples of a block, judged by the first sample."""
    logits = len(job.logits(one))
    kept = _kept(job, one)
    stacked = sum(
        prod(one.shapes[index]) * logits
        for index in range(len(job.groups))
        if index in kept
    )
    item = one.like.element_size()
    held = logits if job.outputs == "full" else 1
    return block_size(
        block,
        memory,
        sample_bytes=one.num_bytes + stacked * item,
        cell_bytes=held**2 * item if buffered else 0,
    )


def _kept(job: _Job, one: Side) -> frozenset[int]:
    """Groups whose gradients are kept for all logits."""
    every = range(len(job.groups))
    return frozenset(every if not job.trace else _by_positions(job, one))


def _by_positions(job: _Job, one: Side) -> frozenset[int]:
    """Groups that are contracted by Grams over positions."""
    logits = len(job.logits(one))
    return frozenset(
        index
        for index in range(len(job.groups))
        if by_positions(
            one.inputs[index],
            one.shapes[index],
            num_rows=one.num_rows[index],
            num_logits=logits,
            num_pairs=logits if job.trace else logits**2,
        )
    )


def _add_pair(
    job: _Job, tiles: Sequence[Tensor], sides: tuple[Side, Side], memory: int
) -> None:
    """Add the kernel of a pair of blocks to one tile per group."""
    one, two = sides
    distinct = [one] if two is one else [one, two]
    positions, kept = _by_positions(job, one), _kept(job, one)
    streamed = [i for i in range(len(job.groups)) if i not in kept]
    logits = job.logits(one)

    def add(index: int, gradients: Sequence[Tensor]) -> None:
        factors = [
            Factors(side.inputs[index], g, side.num_rows[index])
            for side, g in zip(distinct, gradients, strict=True)
        ]
        rule = add_by_positions if index in positions else add_by_gradients
        rule(
            tiles[index],
            factors[0],
            factors[-1],
            trace=job.trace,
            symmetric=two is one,
            memory=memory,
        )

    for place, logit in enumerate(logits):
        found = [
            _backward(side, logit, (place, len(logits)), kept, streamed)
            for side in distinct
        ]
        for index in streamed:
            add(index, [gradients[index][None] for gradients in found])
    if not streamed:
        for side in distinct:
            side.let_go()
    for index in sorted(kept):
        add(index, [side.stacked[index] for side in distinct])


def _backward(
    side: Side,
    logit: int | None,
    place: tuple[int, int],
    kept: frozenset[int],
    streamed: Sequence[int],
) -> dict[int, Tensor]:
    """Gradient factors of one logit; those that are kept go to the stacks."""
    at, total = place
    missing = [i for i in kept if i not in side.complete]
    if not missing and not streamed:
        return {}
    found = side.gradients(logit, [*missing, *streamed])
    for index in missing:
        g = found.pop(index)
        if at == 0:
            side.stacked[index] = g.new_empty(total, *g.shape)
        side.stacked[index][at] = g
    if at + 1 == total:
        side.complete |= kept
    return found
