"""The top singular triplet of a matrix, as the constants of a differentiable form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spectrank.linalg.enclosure import gram_product, start_vector
from spectrank.linalg.gram import gram, symmetrised
from spectrank.linalg.lanczos import lanczos
from spectrank.linalg.operand import Operand, make_operand
from spectrank.linalg.shapes import Matrix

# Up to this order a dense eigensolver takes less time than Lanczos on a spectrum
# without a gap at its top, such as that of a Gaussian matrix.
_DENSE = 1024
_RTOL = 1e-12
_MAX_STEPS = 200


class Triplet(NamedTuple):
    """Unit vectors u (m,) and v (n,) with W v = s_1 u, in float64 and detached."""

    u: Tensor
    v: Tensor


def top_triplet(W: Matrix) -> Triplet | None:
    r"""Top singular vectors of W, exact up to rounding over the gap below s_1.

    From the eigenvectors of the smaller Gram matrix in float64, their error about
    :math:`\epsilon\, s_1^2/(s_1^2 - s_2^2)`; above order 1024 by Lanczos, where s_1 is
    right to 1e-12 and the vectors to about :math:`10^{-6}/\sqrt{1 - s_2/s_1}`. Where
    s_1 is repeated, some pair of its space. The sign of the pair is not fixed.

    Args:
        W: (m, n) real, any precision; scaled where its squares leave float64.

    Returns:
        The pair on the device of W; None for a zero, empty or non-finite matrix.
    """
    operand = make_operand(W)
    if operand.amax == 0.0 or not math.isfinite(operand.amax):
        return None
    v = _right_vector(operand)
    v = v / torch.linalg.vector_norm(v)
    u = torch.mv(operand.scaled(operand.tensor, torch.float64), v)
    u = u / torch.linalg.vector_norm(u)
    # The operand is tall: of a wide matrix the roles are exchanged.
    return Triplet(u, v) if W.shape[0] >= W.shape[1] else Triplet(v, u)


def _right_vector(operand: Operand) -> Tensor:
    if operand.cols > _DENSE:
        run = lanczos(
            gram_product(operand, torch.float64),
            start_vector(operand.cols, 0, operand.tensor.device),
            rtol=_RTOL,
            failure_probability=1e-9,
            max_steps=_MAX_STEPS,
        )
        if run.converged:
            return run.vector
    vectors: Tensor = torch.linalg.eigh(symmetrised(gram(operand)))[1]
    return vectors[:, -1]
