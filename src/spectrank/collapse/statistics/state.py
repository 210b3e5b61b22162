"""What a pass fills, and what it tells when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from spectrank.collapse.statistics.accumulate import LayerAccumulator
from spectrank.collapse.statistics.labels import Reading
from spectrank.collapse.statistics.layer import LayerStatistics
from spectrank.collapse.statistics.outputs import OutputAccumulator, OutputStatistics
from spectrank.model import Skip


@final
@dataclass(frozen=True, eq=False)
class Statistics:
    """What one pass tells of a model.

    Attributes:
        layers: In the order of the model.
        skips: Layers that have no such statistics, each with the reason.
        outputs: Of the model: logits by class, or outputs and regression targets.
        reading: How the targets were read.
        num_samples: N, of classes the labels that are not ignored and no padding: for
            tokens not the sequences; 0 where the batches of a regression do not tell.
        num_batches: Of the pass.
        divisor: F; NaN without a loss.
        loss: Mean of the loss as trained, without its penalty; NaN without one.
    """

    layers: tuple[LayerStatistics, ...]
    skips: tuple[Skip, ...]
    outputs: OutputStatistics
    reading: Reading
    num_samples: int
    num_batches: int
    divisor: float
    loss: float


@final
@dataclass
class Pass:
    """What a pass fills; merged over processes by `reduce_pass`.

    Attributes:
        layers: Accumulators of the sites.
        outputs: Of the model's outputs.
        reading: How targets are read.
        device: Where the sums live.
        ignored: Label that means none.
        num_samples: So far.
        num_batches: So far.
        divisor: So far.
        loss: Sum of the loss so far.
    """

    layers: tuple[LayerAccumulator, ...]
    outputs: OutputAccumulator
    reading: Reading
    device: torch.device
    ignored: int
    num_samples: int = 0
    num_batches: int = 0
    divisor: float = 0.0
    loss: float = 0.0
