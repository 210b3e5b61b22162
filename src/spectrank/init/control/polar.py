"""Polar reset: the flattest matrix with the singular vectors that a weight has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.init.blocks import unwritable
from spectrank.init.control.layers import skipped
from spectrank.init.control.requests import check_model
from spectrank.linalg import Need, Spectrum, spectrum
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.linalg.operand import ldexp, make_operand
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.stable_rank import rounding_share
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.model.views import get_view
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
    SVD in float64. Parametrised weights, and what is no matrix, are left alone with a
    row that says so; tied weights are reset once. The optimizer's momentum is not
    touched.

    Degenerate input: where the rank k is below p (singular values below the share
    `spectrank.linalg.stable_rank.rounding_share` of s_1), U V^T is not unique on the
    null space; it is left zero and p becomes k, with status ``degenerate``. A zero
    matrix is left as it is (``degenerate``), a non-finite one too (``nonfinite``).

    Source (derived): our form of the periodic reset by the matrix sign of MSign,
    arXiv:2602.01734, whose rescaling was not recovered;
    test_control_polar.py::test_reset_sets_the_stable_rank_and_keeps_the_norm.

    Args:
        source: Model, or one weight of two or more axes, outputs first.
        norm: Which norm is kept.
        select: Glob pattern(s) of weight names of a model; None for all.

    Returns:
        Rows ``stable_rank``, ``frobenius_norm`` and ``spectral_norm``, each with
        ``variant`` ``before`` and ``after``.

    Raises:
        ArgumentTypeError: ``source`` is neither.
        DomainError: A pattern matches nothing.
        UnknownNameError: No such norm.

    Example:
        >>> weight = torch.diag(torch.tensor([3.0, 4.0]))
        >>> table = polar_reset_(weight)
        >>> (weight.diagonal() / 12.5**0.5).tolist()
        [1.0, 1.0]
    """  # noqa: DOC502 - raised by the functions called
    check_choice("norm", norm, ("frobenius", "spectral"))
    # All decided before the first is written.
    weights = [_writable(weight) for weight in _weights(source, select)]
    rows: list[dict[str, Any]] = []
    for weight in weights:
        if isinstance(weight, Skip):
            rows.append({**skip_row(weight), "metric": "polar_reset"})
        else:
            rows += _reset(weight, norm)
    requests = parse_metrics(_METRICS)
    made = {
        **environment(),
        **defined(requests),
        "input": type(source).__name__,
        "settings": {"norm": norm, "select": select},
    }
    return Table.from_rows(rows, provenance=made, columns=COLUMNS)


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


def _reset(weight: WeightMatrix, norm: Norm) -> Iterator[dict[str, Any]]:
    before = weight.tensor()
    first = spectrum(before, _NEEDS)
    try:
        reset = polar_matrix(before, norm)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        yield from _rows(weight, first, "before", None)
        yield {
            **_skip(weight, f"the SVD did not converge: {error}"),
            "status": "not_converged",
        }
        return
    del before
    if reset.matrix is not None:
        _write(weight, reset.matrix)
    yield from _rows(weight, first, "before", None)
    last = spectrum(weight.tensor(), _NEEDS)
    yield from _rows(weight, last, "after", reset.reason)


def _rows(
    weight: WeightMatrix, s: Spectrum, variant: str, reason: str | None
) -> Iterator[dict[str, Any]]:
    for row in matrix_rows(weight, s, parse_metrics(_METRICS), spectra=False):
        if reason and row["metric"] == "stable_rank" and row["status"] == "ok":
            row |= {"status": "degenerate", "reason": reason}
        yield {**row, "variant": variant}


@torch.no_grad()
def _write(weight: WeightMatrix, matrix: Tensor) -> None:
    stored = weight.load()
    # Through a contiguous copy, on which every view shares memory: a view of a
    # channels-last kernel is a copy, and what is written to it would be lost.
    image = torch.empty_like(stored, memory_format=torch.contiguous_format)
    get_view(weight.view).apply(image).copy_(matrix)
    stored.copy_(image)


def _weights(
    source: nn.Module | Tensor, select: str | Sequence[str] | None
) -> Iterator[WeightMatrix | Skip]:
    if isinstance(source, Tensor):
        if select is not None:
            raise DomainError(
                f"select chooses among the weights of a model, got {select!r} with a "
                "tensor; leave it out"
            )
        view = "linear" if source.ndim == 2 else "conv-unfolded"
        yield from iter_weights({"tensor": source}, views={"*": view})
        return
    check_model(source, select)
    parameters: Mapping[str, Tensor] = dict(
        source.named_parameters(remove_duplicate=False)
    )
    for weight in iter_weights(source, select=select):
        if isinstance(weight, WeightMatrix) and weight.name not in parameters:
            yield skipped(
                weight,
                "computed from other parameters; reset those, or remove the "
                "parametrisation",
            )
        else:
            yield weight


def _writable(weight: WeightMatrix | Skip) -> WeightMatrix | Skip:
    refusal = None if isinstance(weight, Skip) else unwritable(weight.load())
    if isinstance(weight, Skip) or refusal is None:
        return weight
    return skipped(weight, refusal)


def _skip(weight: WeightMatrix, reason: str) -> dict[str, Any]:
    return {**skip_row(skipped(weight, reason)), "metric": "polar_reset"}
