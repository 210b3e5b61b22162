"""Working memory of a job, before it runs: what is held beside the model itself."""

from __future__ import annotations

import math
from collections.abc import Iterable

from spectrank.linalg import Need
from spectrank.linalg.implicit import PaddedConvolution
from spectrank.model import WeightMatrix
from spectrank.model.operators import Operator
from spectrank.scanning.measure import Settings
from spectrank.scanning.rows import lost_row
from spectrank.scanning.running.jobs import Job, Outcome

# Lanczos vectors that are kept; the hardest case met took 125 at order 4096.
_STEPS = 200
# Rows of the blocks that a Gram matrix is summed from.
_BLOCK_ROWS = 512
# Images of a basis while a padded operator is formed, in several forms; what is freed
# of them may stay with the process.
_IMAGE_BYTES = 6 << 22
# What is asked for where nothing but norms is.
_OF_NORMS = frozenset[Need](["frobenius", "sigma_max"])


def working_bytes(job: Job, settings: Settings) -> int:
    """Estimate the memory of a job in bytes, its matrices as read included.

    An upper estimate for tensors on the host, from the sizes of what each route
    holds: a float32 copy and the Lanczos vectors for norms; two or four Gram matrices;
    the matrix twice in float64 where a dense SVD may be needed. Not counted: the
    interpreter (about 0.3 GB a process) and the model where it is in memory anyway.
    Source (derived): tests/scanning/running/test_memory.py.

    Args:
        job: What is measured in one go.
        settings: How.

    Returns:
        Bytes.
    """
    return sum(_matrix_bytes(weight, settings) for weight in job.weights)


def _matrix_bytes(weight: WeightMatrix, settings: Settings) -> int:
    if weight.stored is not None:
        if isinstance(weight.take, Operator):
            operator = weight.take.outline
            if isinstance(operator, PaddedConvolution):
                return _padded_bytes(operator, settings)
        return _unformed_bytes(weight)
    read = weight.dtype.itemsize * math.prod(weight.shape)
    if settings.null is not None:
        # A second matrix of the same size, in float64, and its values.
        read += 8 * math.prod(weight.shape)
    return read + _dense_bytes(weight.shape, settings)


def _unformed_bytes(weight: WeightMatrix) -> int:
    """Parts in float64 with copies, Lanczos vectors, and blocks of frequencies."""
    assert weight.stored is not None
    entries, cols = math.prod(weight.shape), min(weight.shape)
    # A kernel of k taps at p positions has p complex blocks: m n / p entries, where
    # stored = m n k / p^2, so at most the root of m n stored.
    blocks = 24 * math.isqrt(entries * weight.stored)
    return 32 * weight.stored + 8 * cols * min(cols, _STEPS) + blocks


def _padded_bytes(operator: PaddedConvolution, settings: Settings) -> int:
    """Formed in float64 and then dense, or the vectors of its Lanczos steps."""
    stored, cols = 32 * operator.num_entries, min(operator.shape)
    if operator.is_formed(settings.needs):
        formed = 8 * math.prod(operator.shape) + _IMAGE_BYTES
        return stored + formed + _dense_bytes(operator.shape, settings)
    # A vector, what is padded around it, and its unrolled form.
    grid = operator.grid
    images = 8 * grid.channels * (math.prod(grid.taps) + 3) * grid.num_inputs
    images *= math.ceil(math.prod(operator.outputs) / grid.num_inputs)
    return stored + 8 * cols * min(cols, operator.max_steps) + 2 * images


def _dense_bytes(shape: tuple[int, int], settings: Settings) -> int:
    """What measuring a matrix takes beside the matrix."""
    rows, cols = max(shape), min(shape)
    entries = rows * cols
    square, vectors = 8 * cols * cols, 8 * cols * min(cols, _STEPS)
    blocks = 8 * cols * min(rows, _BLOCK_ROWS)
    needs = settings.needs
    dense = 20 * entries if "small_end" in needs else 0
    if settings.certify == "deterministic":
        # The matrix that Cholesky proves positive, its factor, and one more Gram
        # matrix made whole for the vector of the lower end.
        return max(7 * square + blocks + vectors, dense)
    if needs & {"sigma", "small_end"}:
        return max(3 * square + blocks, dense)
    if "schatten4" in needs:
        return 4 * square + blocks + vectors
    # Small matrices take all values after all.
    return max(4 * entries + vectors, min(3 * square, 1 << 26) + blocks)


def fits(
    job: Job, running: Iterable[Job], settings: Settings, memory: int | None
) -> bool:
    """Return whether a job may run beside others under a ceiling.

    Args:
        job: The next one.
        running: What runs already; beside nothing every job may run.
        settings: How they measure.
        memory: Ceiling in bytes; None for none.

    Returns:
        Whether their working memory together is below it.
    """
    others = [working_bytes(other, settings) for other in running]
    if memory is None or not others:
        return True
    return sum(others) + working_bytes(job, settings) <= memory


def admitted(
    jobs: Iterable[Job], settings: Settings, memory: int | None
) -> tuple[list[Job], list[tuple[Job, Outcome]]]:
    """Part jobs from those that alone are above the ceiling.

    Args:
        jobs: All of them.
        settings: How they measure.
        memory: Ceiling in bytes; None for none.

    Returns:
        Jobs to run, and the others with rows that say why they do not.
    """
    good, refused = [], []
    for job in jobs:
        size = working_bytes(job, settings)
        if memory is None or size <= memory:
            good.append(job)
            continue
        more = settings.needs - _OF_NORMS or settings.certify == "deterministic"
        reason = (
            f"could not be measured: it takes about {in_bytes(size)} of memory, the "
            f"ceiling is {in_bytes(memory)}; raise memory"
            + (", or ask for norms alone" if more else "")
        )
        rows = tuple([lost_row(weight, reason)] for weight in job.weights)
        refused.append((job, Outcome(rows)))
    return good, refused


def in_bytes(num_bytes: int) -> str:
    """Return a number of bytes as a reader wants it: 512 B, 1.5 kB, 2,300.0 MB."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    unit, name = (1e3, "kB") if num_bytes < 1e6 else (1e6, "MB")
    return f"{num_bytes / unit:,.1f} {name}"
