r"""The six alignments of the Canonical Representation Hypothesis.

For a layer h_b = W h_a with gradients g_b of the loss at its output and
g_a = W^T g_b at its input,

    forward   E[h_b h_b^T] ~ E[g_b g_b^T] ~ W W^T
    backward  E[h_a h_a^T] ~ E[g_a g_a^T] ~ W^T W

rga compares representations with gradients, gwa gradients with weights, rwa
representations with weights. h_b is the output before the bias; g_a is what reaches the
input through this layer alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.collapse.features.summarised import EPS, matrix, rounded
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary, CrossSummary

ALIGNMENTS = (
    "rga_forward",
    "gwa_forward",
    "rwa_forward",
    "rga_backward",
    "gwa_backward",
    "rwa_backward",
)


def canonical_alignments(cross: CrossSummary, weight: Tensor) -> dict[str, Value]:
    r"""Cosines :math:`\langle A,B\rangle/(\|A\|_F\|B\|_F)` of the six pairs.

    Each in [0, 1], since all matrices are positive semidefinite, and 1 where the two
    are proportional. Invariant to the scale of features, gradients and weight; second
    moments are taken about zero. ``degenerate`` where a matrix is zero. Unrelated
    matrices do not read 0: two identities of any size read 1.
    Source (stated): Ziyin, Chuang, Galanti & Poggio (2024), arXiv:2410.03006; the
    cosine as measure of alignment is ours.

    Args:
        cross: Statistics of the layer with the full scatter of both sides.
        weight: (m, n) weight of the layer.

    Returns:
        Value by name, in the order of ``ALIGNMENTS``.

    Raises:
        DomainError: A scatter is not full.
        ShapeError: The weight does not fit the statistics.
    """
    if {cross.inputs.kind, cross.outputs.kind} != {"full"}:
        raise DomainError(
            "alignments need the full scatter of both sides, got "
            f"{cross.inputs.kind!r} and {cross.outputs.kind!r}; accumulate with "
            "scatter_out='full', scatter_in='full'"
        )
    weight = matrix("weight", weight).to(cross.within)
    if weight.shape != cross.within.shape:
        raise ShapeError(
            f"weight must have shape {tuple(cross.within.shape)}, got "
            f"{tuple(weight.shape)}; pass the weight of the same layer"
        )
    if cross.status != "ok":
        lost = Value.undefined(cross.status, cross.reason or cross.status)
        return dict.fromkeys(ALIGNMENTS, lost)
    weight = _unit(weight)
    norm = float(torch.linalg.matrix_norm(weight, 2)) ** 2
    h_a, error_in = _moment(cross.inputs)
    g_b, error_out = _moment(cross.outputs)
    h_b = (weight @ h_a @ weight.mT, error_in * norm)
    g_a = (weight.mT @ g_b @ weight, error_out * norm)
    rounding = EPS * sum(weight.shape) * norm
    forward, backward = (weight @ weight.mT, rounding), (weight.mT @ weight, rounding)
    out, into = (g_b, error_out), (h_a, error_in)
    pairs = [(h_b, out), (out, forward), (h_b, forward)]
    pairs += [(into, g_a), (g_a, backward), (into, backward)]
    return {
        name: _cosine(*left, *right)
        for name, (left, right) in zip(ALIGNMENTS, pairs, strict=True)
    }


def _moment(summary: ClassSummary) -> tuple[Tensor, float]:
    """Second moment over its largest entry, and its error in norm."""
    moment = _unit(summary.second_moment())
    relative = summary.scatter_error + 8.0 * EPS * len(moment)
    return moment, relative * float(moment.trace())


def _cosine(left: Tensor, error: float, right: Tensor, error_right: float) -> Value:
    """Cosine of two positive semidefinite matrices with errors in norm."""
    norm, norm_right = float(left.norm()), float(right.norm())
    if not norm * norm_right > 0.0:
        return Value.undefined("degenerate", "one of the matrices is zero")
    value = float(((left / norm) * (right / norm_right)).sum())
    bound = 2.0 * (error / norm + error_right / norm_right)
    return rounded(max(value, 0.0), bound).clip(0.0, 1.0)


def _unit(values: Tensor) -> Tensor:
    """Over the largest entry, so that products stay in float64's range."""
    largest = torch.nan_to_num(values.abs()).max()
    return values / largest if float(largest) > 0.0 else values
