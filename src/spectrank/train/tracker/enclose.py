"""A full enclosure of a matrix's norms together with its top singular vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectrank.linalg.enclosure import gram_product, start_vector, with_rounding
from spectrank.linalg.lanczos import lanczos
from spectrank.linalg.measure import spectrum
from spectrank.linalg.operand import Operand, make_operand
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Spectrum, rescaled
from spectrank.linalg.value import Value

# Below this relative width the rounding of float32 products would show.
_FLOAT32_RTOL = 4e-5
# Of the width, what Lanczos may take; the rest is for the rounding of its products.
_SHARE = {torch.float32: 0.8, torch.float64: 0.99}
# Enough at the default width: the worst everyday spectrum, Gaussian, takes 40.
_MAX_STEPS = 300


@dataclass(frozen=True, eq=False)
class Enclosed:
    """Norms of one matrix with both ends, and where its largest singular value is.

    Attributes:
        spectrum: Norms at least.
        vector: Unit singular vector of the scaled matrix, float64, as long as its
            shorter side; None for a zero or non-finite matrix.
        exponent: The matrix was scaled by ``2**-exponent``.
    """

    spectrum: Spectrum
    vector: Tensor | None
    exponent: int


def enclose(
    W: Matrix, *, rtol: float, failure_probability: float, seed: int
) -> Enclosed:
    """Enclose the norms of a matrix by Lanczos from a fresh random start.

    It uses nothing of earlier matrices, so that no direction stays unseen: the upper
    end fails with the stated probability, over this start vector alone. Where Lanczos
    does not get there, the full spectrum is taken.

    Args:
        W: (m, n) with min(m, n) at least 4.
        rtol: Relative width of the largest singular value.
        failure_probability: That the upper end misses.
        seed: Of the start vector.

    Returns:
        The norms, and the vector to go on from.
    """
    operand = make_operand(W)
    if operand.amax == 0.0 or not math.isfinite(operand.amax):
        return Enclosed(spectrum(W, ["frobenius", "sigma_max"]), None, 0)
    start = start_vector(operand.cols, seed, operand.tensor.device)
    single = rtol >= _FLOAT32_RTOL
    for dtype in [torch.float32, torch.float64] if single else [torch.float64]:
        run = lanczos(
            gram_product(operand, dtype),
            start,
            rtol=rtol * _SHARE[dtype],
            failure_probability=failure_probability,
            max_steps=min(_MAX_STEPS, operand.cols - 1),
        )
        top, frobenius = with_rounding(operand, run, start, dtype, failure_probability)
        if not run.converged or top is None:
            continue
        if top.relative_width <= rtol:
            norms = _norms(W, operand, top, frobenius, dtype)
            return Enclosed(norms, run.vector, operand.exponent)
    full = spectrum(W, ["sigma"])
    return Enclosed(full, run.vector, operand.exponent)


def _norms(
    W: Tensor, operand: Operand, top: Value, frobenius: Value, dtype: torch.dtype
) -> Spectrum:
    scaled = Spectrum(
        shape=(W.shape[0], W.shape[1]),
        frobenius=frobenius,
        sigma_max=top,
        schatten4=None,
        sigma=None,
        sigma_error=None,
        route=f"lanczos-{str(dtype).removeprefix('torch.')}",
    )
    return rescaled(scaled, operand.exponent)
