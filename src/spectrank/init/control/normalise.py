"""Stable rank normalisation of a layer's weight, as a torch parametrisation.

The formula, and why the target is never exceeded, are in `parametrisation`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from spectrank.errors import DomainError
from spectrank.init.control.parametrisation import StableRankNorm
from spectrank.init.control.requests import needed_weight
from spectrank.linalg.srn import SrnVariant


def stable_rank_norm(
    module: nn.Module,
    stable_rank: float | None = None,
    *,
    fraction: float | None = None,
    name: str = "weight",
    variant: SrnVariant = "keep",
    spectral_norm: float | None = None,
    iterations: int = 1,
    exact: bool = False,
    dim: int | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Keep the stable rank of a layer's weight at or below a target while it trains.

    The layer uses :math:`W' = a\, s u v^T + b\,(W - s u v^T)`, :math:`s = u^T W v`,
    with (a, b) from `spectrank.linalg.srn.srn_factors`; W itself is what the optimizer
    updates. It only lowers: a weight below the target is used as it is. Biases and
    norms are untouched, except that ``spectral_norm`` sets s of W' to a number.

    Vectors: buffers, exact when the layer is registered or its weight assigned
    (``layer.weight = X``), then ``iterations`` steps of power iteration at the first
    training-mode forward after each change of the weight, at no further one and never
    in evaluation mode. So several uses of a layer in one step, gradient accumulation,
    checkpointing and `torch.nn.utils.parametrize.cached` all see the same W'.

    Differentiated: s, ||W - s u v^T||_F and W; u and v are constants, as in spectral
    normalisation. That is the exact derivative of the map for fixed u and v; the turn
    of u v^T with W, of size (a - b) s_1 |d(u v^T)|, is left out, also where ``exact``.

    Each group of a convolution is a matrix of its own, as for `spectrank.init`: the
    target, min(m, n) and s_1 are those of its block.

    Tied weights: only this layer uses W'; another one that shares the parameter goes on
    with W. Have both use W' by giving the other the same parametrisation:
    ``parametrize.register_parametrization(other, "weight",
    layer.parametrizations.weight[-1])``, which keeps the parameter shared.

    Precision: that of the weight's dtype, float32 inside for bfloat16 and float16. At
    any scale where entries are normal numbers; entries of float16 below 6e-5 are
    multiples of 6e-8, and rounding to them moves the stable rank.

    Undo: ``torch.nn.utils.parametrize.remove_parametrizations(module, name)``.

    Source (stated): Sanyal et al. (2020), arXiv:1906.04659, and its public code for
    ``variant="keep"``. Source (derived): the bound on the stable rank for any u, v,
    test_control_normalise.py::test_target_is_not_exceeded_whatever_the_vectors.

    Args:
        module: Linear, ConvNd, ConvTransposeNd, or any module with such a parameter.
        stable_rank: Target r in [1, min(m, n)] of the matrix (m, n) below.
        fraction: Target as a share of min(m, n) in its place, at least 1 in all.
        name: Of the parameter.
        variant: ``keep`` leaves s_1; ``optimal`` is nearest to W in Frobenius norm.
        spectral_norm: s of W'; None leaves it as it comes.
        iterations: Steps of power iteration after each change of the weight.
        exact: Exact vectors at every forward, in both modes, in place of the buffers.
        dim: Axis of the outputs, the rows of the matrix, all others being its columns;
            None is 0, or 1 for transposed convolutions.
        generator: Draws the vectors of a weight that is zero; None for fixed ones.

    Returns:
        The module, changed in place.

    Raises:
        ArgumentTypeError: ``module`` is no module, or has no parameter of that name.
        DomainError: A target or a number outside its range, or the weight is normalised
            already.
        ShapeError: The parameter is no matrix or kernel.

    Example:
        >>> layer = stable_rank_norm(nn.Linear(64, 32), 4)
        >>> sigma = torch.linalg.svdvals(layer.weight.detach())
        >>> round(float(sigma.square().sum() / sigma[0] ** 2), 4)
        4.0
    """  # noqa: DOC502 - raised by the functions called
    weight = needed_weight(module, name)
    _check_first(module, name)
    if dim is None:
        dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    normalise = StableRankNorm(
        weight,
        stable_rank,
        fraction=fraction,
        variant=variant,
        spectral_norm=spectral_norm,
        iterations=iterations,
        exact=exact,
        dim=dim,
        # Of the kernel: another parameter of a convolution is one matrix.
        groups=module.groups if isinstance(module, _ConvNd) and name == "weight" else 1,
        generator=generator,
    )
    normalise.train(module.training)
    parametrize.register_parametrization(module, name, normalise)
    return module


def _check_first(module: nn.Module, name: str) -> None:
    if not parametrize.is_parametrized(module, name):
        return
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    before = lists[name]
    assert isinstance(before, nn.ModuleList)
    for step in before:
        if isinstance(step, StableRankNorm):
            raise DomainError(
                "a weight has one stable rank normalisation, got a second one for "
                f"{name!r} beside stable_rank={step.stable_rank:g}; first "
                "torch.nn.utils.parametrize.remove_parametrizations(module, "
                f"{name!r}, leave_parametrized=False)"
            )
