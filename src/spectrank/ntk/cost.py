"""What an algorithm costs for a parameter: multiply-adds counted as two operations.

The counts order the algorithms; they are no times. A backward pass is taken as two
forward passes, a forward-mode pass as one more beside the forward pass it shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

FULL = "full"


@final
@dataclass(frozen=True)
class Job:
    """Sizes of a kernel.

    Attributes:
        n1: Samples of the first set.
        n2: Of the second.
        num_outputs: c.
        outputs: Form of the kernel.
        symmetric: Whether the second set is the first, so that half suffices.
        forward: Operations of one forward pass of one sample.
    """

    n1: int
    n2: int
    num_outputs: int
    outputs: str
    symmetric: bool
    forward: float

    @property
    def share(self) -> float:
        """Share of the pairs of samples that is computed."""
        return 0.5 * (1.0 + 1.0 / self.n1) if self.symmetric else 1.0

    @property
    def rows(self) -> tuple[int, int]:
        """Jacobian rows of both sets."""
        k = 1 if self.outputs == "sum_logits" else self.num_outputs
        return self.n1 * k, self.n2 * k

    @property
    def pairs(self) -> float:
        """Pairs of Jacobian rows that meet."""
        r1, r2 = self.rows
        meet = r1 * r2 if self.outputs == FULL else self.n1 * r2
        return meet * self.share


def layerwise_cost(job: Job, shape: tuple[int, ...], positions: int) -> float:
    r"""Operations of the layerwise contraction of one parameter.

    With S positions and a weight (m, d): :math:`2 d S^2` for the Gram of inputs of a
    pair of samples, :math:`2 m S^2` for that of output gradients of a pair of rows; or,
    if cheaper, the gradients of the parameter, :math:`2 m d S` a row, and their
    products, :math:`2 m d` a pair. Source (derived): counting.

    Args:
        job: Sizes of the kernel.
        shape: Of the parameter; the Gram of inputs of a vector is known.
        positions: S, how often it is applied to a sample.

    Returns:
        Operations, beside the backward passes.
    """
    m, d, s = shape[0] if shape else 1, _columns(shape), max(positions, 1)
    samples = job.n1 * job.n2 * job.share
    inputs = d * samples if len(shape) > 1 else 0.0
    gram = 2.0 * s * s * (inputs + m * job.pairs)
    r1, r2 = job.rows
    direct = 2.0 * m * d * (s * (r1 + (0 if job.symmetric else r2)) + job.pairs)
    return min(gram, direct)


def jacobian_cost(job: Job, numel: int) -> float:
    """Operations of the contraction of one parameter's Jacobian, 2 P a pair of rows.

    Args:
        job: Sizes of the kernel.
        numel: P, entries of the parameter.

    Returns:
        Operations, beside the backward passes.
    """
    return 2.0 * numel * job.pairs


def backward_cost(job: Job, times: float = 1.0) -> float:
    """Operations of one backward pass per Jacobian row.

    Args:
        job: Sizes of the kernel.
        times: How often the rows are computed anew.

    Returns:
        Operations; the forward pass is shared by the outputs of a sample.
    """
    r1, r2 = job.rows
    rows = r1 if job.symmetric else r1 + r2
    samples = job.n1 if job.symmetric else job.n1 + job.n2
    return times * job.forward * (2.0 * rows + samples)


def products_cost(job: Job) -> float:
    """Operations of kernel-vector products: a forward-mode pass per row and sample.

    Args:
        job: Sizes of the kernel.

    Returns:
        Operations; all chosen parameters together.
    """
    # The pass gives all outputs of a sample, wanted or not. A tangent costs about two
    # forward passes: that of the parameters and that of the activations.
    return job.rows[1] * job.n1 * job.share * 2.0 * job.forward + backward_cost(job)


def forward_cost(
    shapes: Mapping[str, tuple[int, ...]], positions: Mapping[str, int]
) -> float:
    """Operations of a forward pass of one sample: two per weight and position.

    Args:
        shapes: Parameter name to shape.
        positions: Parameter name to how often it is applied.

    Returns:
        Operations, at least one.
    """
    total = 0.0
    for name, shape in shapes.items():
        size = 1.0
        for n in shape:
            size *= n
        total += 2.0 * size * positions.get(name, 0)
    return max(total, 1.0)


def _columns(shape: tuple[int, ...]) -> int:
    d = 1
    for n in shape[1:]:
        d *= n
    return d
