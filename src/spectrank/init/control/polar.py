"""Polar reset: the flattest matrix with the singular vectors that a weight has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spectrank.errors import DomainError, ShapeError
from spectrank.init.blocks import Block, matrices_of, unwritable
from spectrank.init.control.layers import skipped
from spectrank.init.control.requests import check_model
from spectrank.linalg import Need, spectrum
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.linalg.operand import ldexp, make_operand
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.stable_rank import rounding_share
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.scanning import parse_metrics
from spectrank.scanning.provenance import defined, environment
from spectrank.scanning.rows import COLUMNS, matrix_rows, skip_row
from spectrank.table import Table

Norm = Literal["frobenius", "spectral"]
_METRICS = "stable_rank,frobenius_norm,spectral_norm"
_NEEDS: tuple[Need, ...] = ("frobenius", "sigma_max")


class Reset(NamedTuple):
    """A matrix reset, float64, its rank, and why it is not what was asked for."""

    matrix: Tensor | None
    rank: int
    reason: str | None


class _Target(NamedTuple):
    """A weight to reset, as its matrices."""

    weight: WeightMatrix
    blocks: tuple[Block, ...]


def polar_reset_(
    source: nn.Module | Tensor,
    *,
    norm: Norm = "frobenius",
    select: str | Sequence[str] | None = None,
) -> Table:
    r"""Set every singular value of a weight to one number, in place.

    :math:`W \leftarrow \|W\|_F\, U V^T/\sqrt p` with :math:`W = U \Sigma V^T`,
    p = min(m, n): the stable rank becomes p, the Frobenius norm is kept. With
    ``norm="spectral"`` :math:`W \leftarrow s_1 U V^T`: the spectral norm is kept. By an
    SVD in float64. Each group of a convolution is a matrix of its own, told apart by
    ``part`` and ``index``. Parametrised weights, what is no matrix, and embeddings that
    ``select`` does not name are left alone with a row that says so; tied weights are
    reset once. The optimizer's momentum is not touched.

    Degenerate input: where the rank k is below p (singular values below the share
    `spectrank.linalg.stable_rank.rounding_share` of s_1), U V^T is not unique on the
    null space; it is left zero and p becomes k, with status ``degenerate``. A zero
    matrix is left as it is (``degenerate``), a non-finite one too (``nonfinite``).

    Source (derived): our form of the periodic reset by the matrix sign of MSign,
    arXiv:2602.01734, whose rescaling was not recovered;
    test_control_polar.py::test_reset_sets_the_stable_rank_and_keeps_the_norm.

    Args:
        source: Model, or one weight (out, in) or kernel (out, in, *size).
        norm: Which norm is kept.
        select: Glob pattern(s) of weight names of a model; None for all. An embedding
            is reset where its whole name is among them.

    Returns:
        Rows ``stable_rank``, ``frobenius_norm`` and ``spectral_norm``, each with
        ``variant`` ``before`` and ``after``.

    Raises:
        ArgumentTypeError: ``source`` is neither.
        DomainError: A pattern matches nothing, or a model has no tensors.
        ShapeError: A tensor is neither a matrix nor a kernel.
        UnknownNameError: No such norm.

    Example:
        >>> weight = torch.diag(torch.tensor([3.0, 4.0]))
        >>> table = polar_reset_(weight)
        >>> (weight.diagonal() / 12.5**0.5).tolist()
        [1.0, 1.0]
    """  # noqa: DOC502 - raised by the functions called
    check_choice("norm", norm, ("frobenius", "spectral"))
    # All decided before the first is written.
    targets = [_writable(target) for target in _targets(source, select)]
    rows: list[dict[str, Any]] = []
    for target in targets:
        if isinstance(target, Skip):
            rows.append({**skip_row(target), "metric": "polar_reset"})
        else:
            for index in range(len(target.blocks)):
                rows += _reset(target, index, norm)
    requests = parse_metrics(_METRICS)
    made = {
        **environment(),
        **defined(requests),
        "input": type(source).__name__,
        "settings": {"norm": norm, "select": select},
    }
    return Table.from_rows(
        rows, provenance=made, columns={**COLUMNS, "part": pl.String}
    )


def polar_matrix(W: Matrix, norm: Norm = "frobenius") -> Reset:
    r"""The matrix of `polar_reset_`, without writing it anywhere.

    Args:
        W: (m, n) real, any precision.
        norm: Which norm is kept.

    Returns:
        (m, n) float64; None where W is zero or not finite.
    """
    operand = make_operand(W)
    if operand.amax == 0.0:
        return Reset(None, 0, "the matrix is zero and was left as it is")
    if not math.isfinite(operand.amax):
        return Reset(None, 0, "the matrix has non-finite entries and was left")
    tall = operand.scaled(operand.tensor, torch.float64)
    u, s, vh = torch.linalg.svd(tall, full_matrices=False)
    m, n = W.shape
    cutoff = rounding_share(m, n, W.dtype) * s[0]
    rank = int((s > cutoff).sum())
    size = (
        torch.linalg.vector_norm(s) / math.sqrt(rank) if norm == "frobenius" else s[0]
    )
    flat = size * (u[:, :rank] @ vh[:rank])
    flat = ldexp(flat, operand.exponent) if operand.exponent else flat
    reason = None
    if rank < min(m, n):
        reason = f"rank {rank} of {min(m, n)}: the null space was left zero"
    return Reset(flat if m >= n else flat.T, rank, reason)


def _reset(target: _Target, index: int, norm: Norm) -> Iterator[dict[str, Any]]:
    block, stored = target.blocks[index], target.weight.load()
    before = block.read(stored)
    yield from _rows(target, index, "before", None)
    try:
        reset = polar_matrix(before, norm)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        yield {
            **_skip(target.weight, f"the SVD did not converge: {error}"),
            "status": "not_converged",
        }
        return
    del before
    if reset.matrix is not None:
        block.write(stored, reset.matrix)
    yield from _rows(target, index, "after", reset.reason)


def _rows(
    target: _Target, index: int, variant: str, reason: str | None
) -> Iterator[dict[str, Any]]:
    block, weight = target.blocks[index], target.weight
    s = spectrum(block.read(weight.load()), _NEEDS)
    alone = replace(weight, shape=(block.m, block.n))
    number = None if block.part is None else index
    more = {"variant": variant, "part": block.part, "index": number}
    for row in matrix_rows(alone, s, parse_metrics(_METRICS), spectra=False):
        if reason and row["metric"] == "stable_rank" and row["status"] == "ok":
            row |= {"status": "degenerate", "reason": reason}
        yield {**row, **more}


def _targets(
    source: nn.Module | Tensor, select: str | Sequence[str] | None
) -> Iterator[_Target | Skip]:
    if isinstance(source, Tensor):
        yield _of_tensor(source, select)
        return
    check_model(source, select)
    named = {select} if isinstance(select, str) else set(select or ())
    parameters: Mapping[str, Tensor] = dict(
        source.named_parameters(remove_duplicate=False)
    )
    for weight in iter_weights(source, select=select, split=False):
        if isinstance(weight, Skip):
            yield weight
        elif weight.name not in parameters:
            reason = "computed from other parameters; reset those, or remove the "
            yield skipped(weight, f"{reason}parametrisation")
        elif weight.view == "embedding" and named.isdisjoint(
            (weight.name, *weight.tied_to)
        ):
            reason = "an embedding: a table of vectors, not a map of a signal; left. "
            yield skipped(weight, f"{reason}select={weight.name!r} resets it")
        else:
            owner = source.get_submodule(weight.name.rpartition(".")[0])
            groups = owner.groups if isinstance(owner, _ConvNd) else 1
            yield _Target(weight, matrices_of(weight, groups))


def _of_tensor(tensor: Tensor, select: object) -> _Target | Skip:
    if select is not None:
        raise DomainError(
            f"select chooses among the weights of a model, got {select!r} with a "
            "tensor; leave it out"
        )
    if tensor.ndim < 2:
        raise ShapeError(
            "a polar reset needs a matrix or a kernel, got shape "
            f"{tuple(tensor.shape)}; pass the weight of a layer, not its bias"
        )
    view = "linear" if tensor.ndim == 2 else "conv-unfolded"
    (weight,) = iter_weights({"tensor": tensor}, views={"*": view})
    if isinstance(weight, Skip):
        return weight
    return _Target(weight, matrices_of(weight, 1))


def _writable(target: _Target | Skip) -> _Target | Skip:
    refusal = None if isinstance(target, Skip) else unwritable(target.weight.load())
    if isinstance(target, Skip) or refusal is None:
        return target
    return skipped(target.weight, refusal)


def _skip(weight: WeightMatrix, reason: str) -> dict[str, Any]:
    return {**skip_row(skipped(weight, reason)), "metric": "polar_reset"}
