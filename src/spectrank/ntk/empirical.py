"""The empirical neural tangent kernel: several algorithms behind one name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from spectrank.model.differentiation import differentiable
from spectrank.ntk.assign import Assignment, Method, assign
from spectrank.ntk.jacobian import jacobian_kernel
from spectrank.ntk.layerwise import layerwise_kernel
from spectrank.ntk.memory import Target, check_memory
from spectrank.ntk.request import Outputs, Request, make_request

Progress = Callable[[str, int, int], object]


def empirical(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    params: str | Sequence[str] | None = None,
    block: int | None = None,
    out: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Empirical kernel :math:`\sum_p \partial_p f_i(x_a)\, \partial_p f_j(x_b)`.

    At the parameters that the model has. Standard parametrisation: the sum is over the
    entries of the parameters themselves (of a parametrised weight, over its factors).
    Positive semi-definite up to rounding; without ``x2`` symmetric to the last bit;
    additive over disjoint sets of parameters. The model runs in the mode it is in and
    is left as it was.

    Three algorithms: *layerwise* contracts Grams of layer inputs and of output
    gradients and stores no Jacobian; *jacobian* contracts blocks of rows of the
    Jacobian, for any module; *products* sends rows through the model by forward mode.
    ``auto`` chooses for each parameter (see ``plan``) and adds up. Computed in the
    dtype of the model.
    Source (stated): Jacot, Gabriel, Hongler (2018), arXiv:1806.07572, section 4.

    Args:
        model: Takes one tensor of samples along axis 0, gives (batch, classes), each
            row a function of its sample alone.
        x1: (n1, ...).
        x2: (n2, ...); None for ``x1``.
        outputs: ``full``; ``trace``, the plain sum over equal outputs; ``sum_logits``,
            the kernel of the sum of the outputs.
        method: ``auto``, ``layerwise``, ``jacobian`` or ``products``.
        params: Glob pattern(s) on parameter names, which choose frozen ones too; None
            for all that require a gradient.
        block: Samples per block; None for what fits.
        out: A ``.npy`` file for a kernel that does not fit in memory.
        memory: Ceiling in bytes of the result and the blocks together; 4 GiB by
            default, of which blocks take 256 MiB where that suffices.
        progress: Called with the algorithm, blocks done and blocks in all.

    Returns:
        (n1, n2, c, c) for ``full``, else (n1, n2), on the device of the model; of a
        file, a mapped tensor.

    Raises:
        ArgumentTypeError: An argument is of another type.
        ShapeError: The outputs are not (batch, classes), or there is no sample.
        DomainError: The result is above the memory ceiling without ``block`` or
            ``out``; inputs are on another device; a layer in train mode couples samples
            or draws at random; no parameter is trained.
        UnknownNameError: A method, form or parameter of that name does not exist.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        >>> empirical(model, x, outputs="trace")
        tensor([[ 5.,  1.],
                [ 1., 10.]])
    """  # noqa: DOC502 - raised by the functions called
    # A tensor made in inference mode could not be written to by what leaves it.
    with torch.inference_mode(mode=False), torch.no_grad():
        request = make_request(model, x1, x2, outputs, params)
        check_memory(request.result_bytes, memory, block, out)
        found = request.probe
        target = Target(request.shape, found.dtype, found.device, out)
        in_memory = request.result_bytes if out is None else 0
        assignment = assign(request, method, block, memory, in_memory)
        try:
            _fill(request, assignment, target.tensor, block, progress)
            return target.finish()
        except BaseException:
            target.abandon()
            raise


def _fill(
    request: Request,
    assignment: Assignment,
    kernel: Tensor,
    block: int | None,
    progress: Progress | None,
) -> None:
    names = assignment.names("layerwise")
    if names:
        _fill_layerwise(request, assignment, kernel, block, progress)
    if assignment.layout is None:
        return
    for algorithm in ("jacobian", "products"):
        names = assignment.names(algorithm)
        if not names:
            continue
        with differentiable(request.model):
            jacobian_kernel(
                request.model,
                request.x1,
                request.x2,
                params=names,
                layout=assignment.layout,
                out=kernel,
                products=algorithm == "products",
                progress=None if progress is None else partial(progress, algorithm),
            )


def _fill_layerwise(
    request: Request,
    assignment: Assignment,
    kernel: Tensor,
    block: int | None,
    progress: Progress | None,
) -> None:
    layerwise_kernel(
        request.model,
        request.x1,
        request.x2,
        outputs=request.outputs,
        params=frozenset(assignment.names("layerwise")),
        block=block,
        memory=assignment.working,
        out=kernel,
        progress=None if progress is None else partial(progress, "layerwise"),
        support=assignment.support,
    )
