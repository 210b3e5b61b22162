"""How a kernel is cut into blocks of samples and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

OUTPUT_AXES = {"full": 4, "trace": 2, "sum_logits": 2}


class Block(NamedTuple):
    """Rows of a Jacobian: samples times outputs."""

    samples: slice
    outputs: slice


@final
@dataclass(frozen=True)
class Layout:
    """Rows of a Jacobian in blocks.

    Attributes:
        outputs: Form of the kernel.
        num_outputs: c.
        samples_per_block: Of one block.
        outputs_per_block: Of one block; 1 for ``sum_logits``.
    """

    outputs: str
    num_outputs: int
    samples_per_block: int
    outputs_per_block: int

    @classmethod
    def within(
        cls,
        outputs: str,
        num_outputs: int,
        num_samples: int,
        num_rows: int,
        samples: int | None = None,
    ) -> Layout:
        """Choose blocks of at most ``num_rows`` rows.

        A full kernel takes all outputs of few samples, since they share one forward
        pass; a trace takes many samples of few outputs, since only equal outputs meet.

        Args:
            outputs: Form of the kernel.
            num_outputs: c.
            num_samples: n.
            num_rows: Rows that fit, at least 1.
            samples: Samples per block, where the caller fixed it.

        Returns:
            The layout.
        """
        most = 1 if outputs == "sum_logits" else num_outputs
        if samples is None:
            share = num_rows // most if outputs == "full" else num_rows
            samples = max(1, share)
        samples = min(samples, num_samples)
        per_sample = min(most, max(1, num_rows // samples))
        return cls(outputs, num_outputs, samples, per_sample)

    def blocks(self, num_samples: int) -> list[Block]:
        """All blocks of a set of samples, samples outermost."""
        return [
            Block(samples, outputs)
            for samples in slices(num_samples, self.samples_per_block)
            for outputs in slices(self._num_outputs(), self.outputs_per_block)
        ]

    def pairs(self, n1: int, n2: int | None) -> Iterator[tuple[Block, list[Block]]]:
        """Each block of the first set with those of the second that it meets.

        Args:
            n1: Samples of the first set.
            n2: Of the second; None for the first again, where a pair comes once.

        Yields:
            A block and its partners; with itself first where ``n2`` is None.
        """
        first = self.blocks(n1)
        second = first if n2 is None else self.blocks(n2)
        for number, block in enumerate(first):
            partners = second[number:] if n2 is None else second
            if self.outputs != "full":
                partners = [p for p in partners if p.outputs == block.outputs]
            yield block, partners

    def num_pairs(self, n1: int, n2: int | None) -> int:
        """How many pairs of blocks there are."""
        return sum(len(partners) for _, partners in self.pairs(n1, n2))

    def cotangents(self, outputs: slice, like: Tensor) -> Tensor:
        """Combinations of outputs of a block, (k, c)."""
        if self.outputs == "sum_logits":
            return like.new_ones(1, self.num_outputs)
        eye = torch.eye(self.num_outputs, dtype=like.dtype, device=like.device)
        return eye[outputs]

    def _num_outputs(self) -> int:
        return 1 if self.outputs == "sum_logits" else self.num_outputs


def slices(count: int, size: int) -> list[slice]:
    """Cut a range into slices of at most a size.

    Args:
        count: Length of the range.
        size: Of a slice, at least 1.

    Returns:
        The slices in order.
    """
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]
