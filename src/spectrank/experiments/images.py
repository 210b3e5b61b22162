"""Images as the networks of experiments see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from spectrank.experiments.data import (
    Dataset,
    Standardiser,
    fit_standardiser,
    load,
    unit_norm,
)

NUM_PIXELS = {"digits": 64, "mnist": 784, "fashion-mnist": 784, "cifar10": 3072}
"""Data set to the number of numbers in an image."""

_CHANNELS = 3


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        inputs: (N, d), or (N, channels, height, width).
        labels: (N,).
    """

    inputs: Tensor
    labels: Tensor


@final
@dataclass(frozen=True)
class Images:
    """A data set, centred by the training mean, each image of length sqrt(d).

    Read when first used, then shared by the cells on it.

    Attributes:
        data: Name of the data set.
        num_train: Training samples, the first so many; None for all.
        num_test: Test samples, the first so many; None for all.
        spatial: Whether images keep their shape (channels, height, width).
    """

    data: str
    num_train: int | None = None
    num_test: int | None = None
    spatial: bool = False

    @property
    def num_pixels(self) -> int:
        """d, known without reading."""
        return NUM_PIXELS[self.data]

    @property
    def train(self) -> Split:
        """To learn from."""
        return self._read[0]

    @property
    def test(self) -> Split:
        """To be judged on."""
        return self._read[1]

    @property
    def sha256(self) -> Mapping[str, str]:
        """Checksums of the files of both splits."""
        return self._read[2]

    @cached_property
    def _read(self) -> tuple[Split, Split, Mapping[str, str]]:
        train, test = load(self.data), load(self.data, split="test")
        rows = train.rows(self.num_train)
        mean = fit_standardiser(rows).mean
        # Centred, not scaled: border pixels that hardly vary would become outliers.
        centre = Standardiser(mean, torch.ones_like(mean))
        return (
            self._split(train, centre(rows)),
            self._split(test, centre(test.rows(self.num_test))),
            {**train.sha256, **test.sha256},
        )

    def _split(self, dataset: Dataset, centred: Tensor) -> Split:
        inputs = unit_norm(centred) * math.sqrt(centred.shape[1])
        if self.spatial:
            inputs = inputs.view(len(inputs), *dataset.inputs.shape[1:])
            if inputs.ndim == 3:
                inputs = inputs.unsqueeze(1)
            elif inputs.shape[-1] == _CHANNELS:
                inputs = inputs.movedim(-1, 1)
        return Split(inputs.contiguous(), dataset.labels[: len(inputs)])
