"""The kernel by layerwise contraction: blocks of samples, logits, groups.

    n  samples        c  logits of the model        k  logits that a kernel holds apart

Two blocks are held at a time, with their graphs; both sets are run as one where they
fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError, UnknownNameError
from spectrank.ntk.checks import check_model
from spectrank.ntk.layerwise.blocks import Blocks, block_size
from spectrank.ntk.layerwise.pairs import Job, Outputs, Schedule, add_pair
from spectrank.ntk.layerwise.rules import Group, make_groups
from spectrank.ntk.layerwise.sides import Side
from spectrank.ntk.layerwise.support import Support, supported

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
        support: Of this model, where it is known; else 7 samples are run to find it,
            whatever ``memory``.

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
    # No graph can be built on a tensor of inference mode, and none is wanted outside.
    with torch.inference_mode(mode=False), torch.no_grad():
        groups, support = _groups(model, x1, params, support)
        job = Job(model, groups, support, outputs)
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
    with torch.inference_mode(mode=False), torch.no_grad():
        groups, support = _groups(model, x1, params, support)
        job = Job(model, groups, support, outputs)
        kernels = _run(job, x1, x2, (block, memory), None, None, apart=True)
    return {
        " + ".join(p for g in groups if g.layers == layers for p in g.params): kernel
        for layers, kernel in kernels.items()
    }


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
    job: Job,
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
    block, given = limits
    memory = DEFAULT_MEMORY if given is None else given
    first = job.first(x1[:1])
    total = len(x1) if symmetric else len(x1) + len(others)
    schedule = Schedule.of(
        job, first, num_samples=total, block=block, memory=max(1, memory)
    )
    held = first.num_outputs if job.outputs == "full" else 1
    size = block_size(
        block,
        memory,
        total=total,
        sample_bytes=schedule.sample_bytes,
        cell_bytes=0 if out is None else held**2 * first.like.element_size(),
    )
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
    joint = not symmetric and len(pairs) == 1 and x1.shape[1:] == others.shape[1:]
    recipe, at = schedule.recipe, -1
    for done, (r, c) in enumerate(pairs, start=1):
        if joint:
            # One run of both sets has half the passes.
            side = Side(recipe, torch.cat([x1, others]))
            one = side, slice(0, len(x1))
            two = side, slice(len(x1), total)
        else:
            if at != r:
                one, at = _whole(Side(recipe, x1[r : r + size])), r
            same = symmetric and c == r
            two = one if same else _whole(Side(recipe, others[c : c + size]))
        tiles = {
            key: blocks.open(r, c, _height(one), _height(two))
            for key, blocks in targets.items()
        }
        add_pair(
            schedule,
            [tiles[key] for key in keys],
            (one, two),
            trace=job.trace,
            memory=memory // 4,
        )
        for key, blocks in targets.items():
            blocks.close(tiles[key], r, c, diagonal=two is one)
        if progress is not None:
            progress(done, len(pairs))
    return {key: blocks.result for key, blocks in targets.items()}


def _whole(side: Side) -> tuple[Side, slice]:
    return side, slice(0, len(side))


def _height(part: tuple[Side, slice]) -> int:
    return int(part[1].stop - part[1].start)
