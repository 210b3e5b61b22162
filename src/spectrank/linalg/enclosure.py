"""The largest singular value with both ends, by products with the matrix alone.

What the failure probability covers: the draw of the start vector, in exact arithmetic.
Rounding is added on top and is a model: a stated multiple of eps for float64 products;
for float32 products an allowance of twice the larger error measured on two vectors, at
every step. Both take rounding to be unrelated to the start vector's component along the
top singular vector. Only `certificate.certify` proves its ends.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from spectrank.linalg.gram import symmetrised
from spectrank.linalg.lanczos import ROUNDING, LanczosRun, lanczos
from spectrank.linalg.operand import EPS, FrobeniusSum, Operand
from spectrank.linalg.shapes import Spectral, Square
from spectrank.linalg.value import Value

# Below this relative width the rounding of float32 products would show.
_FLOAT32_RTOL = 4e-5
# Part of the width left to the rounding of float32 products.
_FLOAT32_SHARE = 0.2
# How far the rounding error of any step may exceed the larger of two measured ones.
_FLOAT32_SAFETY = 2.0
# A block stays in the second-level cache between the two products with it.
_BLOCK_BYTES = 1 << 21


def enclose_sigma_max(
    operand: Operand,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    seed: int,
) -> tuple[Value, Value, str] | None:
    """Enclose the largest singular value of the scaled matrix.

    Products are taken in float32 where ``rtol`` is coarse enough to bear it; their
    rounding, measured against float64 products, is part of the enclosure. The value
    is the float64 Rayleigh quotient of the Ritz vector.

    Args:
        operand: Matrix of shape (rows, cols), rows >= cols, not zero.
        rtol: Relative width of the enclosure.
        failure_probability: That the upper end misses.
        max_steps: Largest number of products.
        seed: Of the start vector.

    Returns:
        sigma_1, the Frobenius norm and the route; None when the width was not reached.
    """
    max_steps = min(max_steps, operand.cols - 1)
    start = start_vector(operand.cols, seed, operand.tensor.device)
    dtypes = [torch.float32] if rtol >= _FLOAT32_RTOL else []
    for dtype in [*dtypes, torch.float64]:
        single = dtype == torch.float32
        run = lanczos(
            gram_product(operand, dtype),
            start,
            rtol=rtol * (1.0 - _FLOAT32_SHARE) if single else rtol,
            failure_probability=failure_probability,
            max_steps=max_steps,
        )
        if not run.converged:
            return None
        value, frobenius = with_rounding(
            operand, run, start, dtype, failure_probability
        )
        if value is not None and value.relative_width <= rtol * (1.0 + 1e-6):
            return value, frobenius, f"lanczos-{'float32' if single else 'float64'}"
    return None


def enclose_from_gram(
    upper: Square,
    error: float,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    seed: int,
) -> Value | None:
    """Enclose the largest singular value of ``A`` from ``A^T A``.

    Args:
        upper: (n, n) float64, upper triangle of the Gram matrix.
        error: Relative error of its eigenvalues.
        rtol: Relative width of the enclosure.
        failure_probability: That the upper end misses.
        max_steps: Largest number of products.
        seed: Of the start vector.

    Returns:
        The value; None when the width was not reached.
    """
    full = symmetrised(upper)
    return enclose_product(
        lambda v: torch.mv(full, v),
        start_vector(full.shape[0], seed, full.device),
        error,
        rtol=rtol,
        failure_probability=failure_probability,
        max_steps=max_steps,
    )


def enclose_product(
    product: Callable[[Tensor], Tensor],
    start: Spectral,
    error: float,
    *,
    rtol: float,
    failure_probability: float,
    max_steps: int,
    wide: bool = False,
) -> Value | None:
    """Enclose the root of the largest eigenvalue of a positive semidefinite operator.

    Args:
        product: Float64 vector (n,) to its image.
        start: (n,) Gaussian vector, drawn independently of the operator.
        error: Relative rounding error of the eigenvalues of the product.
        rtol: Relative width of the enclosure.
        failure_probability: That the upper end misses.
        max_steps: Largest number of products.
        wide: Whether an enclosure wider than asked for is returned all the same.

    Returns:
        The value; None when the width was not reached.
    """
    run = lanczos(
        product,
        start,
        rtol=rtol,
        failure_probability=failure_probability,
        max_steps=min(max_steps, len(start) - 1),
    )
    if not (run.converged or wide):
        return None
    y = run.vector / torch.linalg.vector_norm(run.vector)
    rayleigh = float(y @ product(y))
    slack = error + ROUNDING * (run.num_steps + 4) * EPS
    if not _consistent(run, rayleigh, slack):
        return None
    return _probabilistic(run, rayleigh, slack, slack, failure_probability)


def start_vector(n: int, seed: int, device: torch.device) -> Spectral:
    """Return a Gaussian vector that depends on seed and length alone.

    Args:
        n: Length.
        seed: Of a generator of its own; the global random state is not touched.
        device: Where the vector goes; it is drawn on the CPU.

    Returns:
        (n,) float64 tensor.
    """
    # torch.manual_seed(0) and a bare generator seeded with 0 draw the same numbers: a
    # model initialised under the seed of this vector would not be independent of it,
    # and the failure probability would mean nothing. So the seed is hashed first.
    digest = hashlib.sha256(f"spectrank start vector {seed} {n}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    vector = torch.randn(n, dtype=torch.float64, generator=generator, device="cpu")
    return vector.to(device)


def gram_product(operand: Operand, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return the map ``v -> A^T (A v)`` with products in ``dtype``.

    On the CPU both products are taken block by block, so that the matrix is read from
    memory once a step.

    Args:
        operand: Matrix of shape (rows, cols).
        dtype: float32 or float64.

    Returns:
        A function of a float64 vector (cols,) with a float64 result.
    """
    a = operand.scaled(operand.tensor, dtype)
    if not operand.is_cpu:
        return lambda v: torch.mv(a.T, torch.mv(a, v.to(dtype))).to(torch.float64)
    rows = max(_BLOCK_BYTES // (a.shape[1] * a.element_size()), 1)
    blocks = [(block, block.T) for block in torch.split(a, rows)]

    def product(v: Tensor) -> Tensor:
        x = v.to(dtype)
        total = torch.zeros_like(x)
        for block, transposed in blocks:
            total.addmv_(transposed, torch.mv(block, x))
        return total.to(torch.float64)

    return product


def with_rounding(
    operand: Operand,
    run: LanczosRun,
    start: Tensor,
    dtype: torch.dtype,
    failure_probability: float,
) -> tuple[Value | None, Value]:
    """Return sigma_1 with the rounding of the steps in it, and the Frobenius norm."""
    probes = [v / torch.linalg.vector_norm(v) for v in (run.vector, start)]
    exact, lengths, frobenius = float64_pass(operand, probes)
    rayleigh = lengths[0] ** 2
    slack = ROUNDING * (run.num_steps + 4) * EPS
    above = slack
    if dtype != torch.float64:
        # The steps are exact for M + E with a symmetric E made of F and F^T, where
        # column j of F is the rounding of step j; so ||E|| <= 2 sqrt(k) max_j ||f_j||.
        product = gram_product(operand, dtype)
        errors = [product(v) - w for v, w in zip(probes, exact, strict=True)]
        measured = max(float(torch.linalg.vector_norm(e)) for e in errors) / rayleigh
        largest = _FLOAT32_SAFETY * max(measured, float(torch.finfo(dtype).eps))
        above += 2.0 * math.sqrt(run.num_steps) * largest
    if not _consistent(run, rayleigh, above):
        return None, frobenius
    value = _probabilistic(run, rayleigh, slack, above, failure_probability)
    return value, frobenius


def _consistent(run: LanczosRun, rayleigh: float, slack: float) -> bool:
    """Whether the Ritz value is what its vector says: it is not after lost digits."""
    return abs(run.theta - rayleigh) <= 2.0 * slack * rayleigh


def float64_pass(
    operand: Operand, vectors: list[Tensor]
) -> tuple[list[Tensor], list[float], Value]:
    """Take products in float64 while the matrix is read once.

    Args:
        operand: Matrix A of shape (rows, cols).
        vectors: Each (cols,) float64.

    Returns:
        ``A^T A v`` and ``||A v||`` of each vector, and the Frobenius norm of A.
    """
    totals = [torch.zeros_like(v) for v in vectors]
    squares = [0.0] * len(vectors)
    frobenius = FrobeniusSum()
    for block in operand.blocks(torch.float64):
        frobenius.add(block)
        for j, v in enumerate(vectors):
            image = torch.mv(block, v)
            totals[j].addmv_(block.T, image)
            squares[j] += float(torch.dot(image, image))
    return totals, [math.sqrt(x) for x in squares], frobenius.value()


def _probabilistic(
    run: LanczosRun,
    squared: float,
    slack_below: float,
    slack_above: float,
    failure_probability: float,
) -> Value:
    """Turn an enclosure of sigma_1^2 into one of sigma_1; slacks are relative."""
    above = max(run.root, squared) + slack_above * squared
    return Value(
        value=math.sqrt(squared),
        lower=math.sqrt(squared * (1.0 - slack_below)),
        upper=math.sqrt(above),
        error_kind="probabilistic",
        failure_probability=failure_probability,
    )
