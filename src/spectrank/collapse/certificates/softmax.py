r"""The rank that a softmax takes from the layer it reads.

Cross-entropy does not change when all logits of a sample move together, so its
derivative delta sums to zero over the outputs: :math:`1^T\delta_i=0`, class weights and
label smoothing included. Hence :math:`\lambda 1^TW=1^Te`, and taking the mean row away
leaves rank m - 1:

    dist(W, rank m - 1) <= ||1^T e|| / (lambda sqrt(m))

in all three norms; at a stationary point the rank is at most m - 1 exactly. A LayerNorm
takes the mean over the outputs away, so a layer that it reads, with or without a skip
connection between them, is bound alike.
Source (derived): tests/collapse/certificates/test_collapse_rows.py.
"""

from __future__ import annotations

import math

import torch

from spectrank.collapse.certificates.tails import widen
from spectrank.linalg import Value
from spectrank.linalg.moments import CrossSummary
from spectrank.linalg.shapes import Matrix

# float32 logits leave sums of about 1e-7 of the derivative.
_ZERO = 1e-5


def sums_to_zero(cross: CrossSummary) -> bool:
    """Whether the derivatives of every cell sum to zero over the outputs.

    Read from the means of the cells and from the products within them; False where
    there are none, or a single output.

    Args:
        cross: Statistics of the pairs.

    Returns:
        Whether a softmax or a LayerNorm reads the layer, as far as the data tell.
    """
    if cross.status != "ok" or len(cross.within) < 2:
        return False
    means = cross.outputs.means[cross.outputs.counts > 0]
    for columns in (means.mT, cross.within):
        whole = float(torch.linalg.vector_norm(columns))
        if float(torch.linalg.vector_norm(columns.sum(0))) > _ZERO * whole:
            return False
    return bool(means.any()) or bool(cross.within.any())


def softmax_bound(
    weight: Matrix, cross: CrossSummary, *, divisor: float, weight_decay: float
) -> Value:
    r"""Bound :math:`\|1^Te\|/(\lambda\sqrt m)` on the distance to rank m - 1.

    For layers whose derivatives `sums_to_zero`.
    Source (derived): tests/collapse/certificates/test_collapse_rows.py.

    Args:
        weight: (m, n) matrix.
        cross: Statistics of the pairs.
        divisor: F.
        weight_decay: lambda; the bound is NaN at 0.

    Returns:
        The bound; its upper end adds what the derivatives do not sum to zero by.
    """
    if weight_decay == 0.0:
        return Value.undefined("degenerate", "no weight decay, no bound on the rank")
    if cross.status != "ok":
        return Value.undefined(cross.status, cross.reason or cross.status)
    W = weight.detach().to(cross.within)
    lost = (cross.moment() * (cross.num_samples / divisor)).sum(0)
    e = lost + weight_decay * W.sum(0)
    m, n = W.shape
    roundoff = 2.3e-16 * (m + n) * weight_decay * float(torch.linalg.vector_norm(W))
    slack = float(torch.linalg.vector_norm(lost)) + roundoff
    bound = Value.around(float(torch.linalg.vector_norm(e)), 0.0)
    return widen(bound, slack) / (weight_decay * math.sqrt(m))
