"""How the claims are measured: inputs, sizes, and a part from a design.

A design is a list of points, at each of which every seed draws networks of its own.
Stable ranks stay where the sample mean has an honest standard error: the relative
second moment of a signal is about exp(sum of 2/rho - 2/n + 3/m over the layers), and
that exponent stays below 2 at every point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.claims import Claim
from spectrank.experiments.data import fit_standardiser, load, unit_norm
from spectrank.experiments.georgiev2021stable.claims import KEY
from spectrank.experiments.georgiev2021stable.networks import (
    Observable,
    Point,
    measure,
)
from spectrank.experiments.papers import Part, PartResult, Tick
from spectrank.experiments.verdicts import Row

DIMENSIONS = MappingProxyType(
    {"digits": 64, "mnist": 784, "fashion-mnist": 784, "cifar10": 3072}
)
"""Data set to the number of numbers in an input."""

Answer = Callable[[np.ndarray, int], Sequence[Row]]


@final
@dataclass(frozen=True)
class Size:
    """How much is drawn.

    Attributes:
        num_seeds: Independent replicates of each design.
        num_networks: Networks for each point and replicate.
    """

    num_seeds: int
    num_networks: int

    def text(self, inputs: Inputs, *, recorded: str = "|h_L|^2 / |x|^2") -> str:
        """Return the size in words, for a claim's protocol.

        Args:
            inputs: What the networks see.
            recorded: What is averaged over them.

        Returns:
            A clause.
        """
        return (
            f"{self.num_seeds} seeds x {self.num_networks} networks at each point; "
            f"{recorded} averaged over {inputs.num_inputs} training inputs of "
            f"{inputs.data}, standardised, of length 1"
        )


@final
@dataclass(frozen=True)
class Inputs:
    """Training inputs, standardised by feature, then scaled to length 1.

    The law of |h_L|^2 / |x|^2 is the same for every x; centred inputs point in more
    different directions, so that their average varies less from net to net. Read when
    first used, then shared by the experiments on them.

    Attributes:
        data: Name of the data set.
        num_inputs: How many.
    """

    data: str
    num_inputs: int

    @property
    def dimension(self) -> int:
        """Number of numbers in an input, known without reading."""
        return DIMENSIONS[self.data]

    @property
    def rows(self) -> Tensor:
        """(N, d) float64 rows of length 1."""
        return self._read[0]

    @property
    def sha256(self) -> Mapping[str, str]:
        """Checksums of the files."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Tensor, Mapping[str, str]]:
        dataset = load(self.data)
        pixels = dataset.rows(dtype=torch.float32)
        standardise = fit_standardiser(pixels)
        rows = standardise(pixels[: self.num_inputs].double())
        return unit_norm(rows), dataset.sha256


@final
@dataclass(frozen=True)
class Design:
    """An experiment before it is run.

    Attributes:
        name: Of the experiment.
        inputs: What the networks see.
        size: How much is drawn.
        points: Where.
        claims: What it answers.
        answer: Maps (R, P, K) signals, or (R, P, K, *F) of what else is observed, and
            the seed to rows.
        figures: Claim key to title and axes.
        observe: What is recorded of each network; by default its signal.
    """

    name: str
    inputs: Inputs
    size: Size
    points: tuple[Point, ...]
    claims: tuple[Claim, ...]
    answer: Answer
    figures: Mapping[str, Mapping[str, str]]
    observe: Observable | None = None

    def part(self) -> Part:
        """Return the experiment in the form that is run.

        Returns:
            The part.
        """
        name = f"{self.name}-{self.inputs.data}"
        return Part(
            name=name,
            claims=self.claims,
            settings=self._settings(),
            num_steps=self.size.num_seeds * len(self.points),
            run=lambda seed, tick: self._run(name, seed, tick),
        )

    def _run(self, name: str, seed: int, tick: Tick) -> PartResult:
        found = measure(
            self.points,
            self.inputs.rows,
            num_seeds=self.size.num_seeds,
            num_networks=self.size.num_networks,
            seed=seed,
            stream=(KEY, name),
            tick=tick,
            observe=self.observe,
        )
        rows = tuple(self.answer(found, seed))
        return PartResult(rows, self.figures, {self.inputs.data: self.inputs.sha256})

    def _settings(self) -> dict[str, Any]:
        settings = {
            "inputs": asdict(self.inputs),
            "size": asdict(self.size),
            "points": [[point.label, repr(point.law)] for point in self.points],
            "sigma": [point.law.sigma for point in self.points],
        }
        if self.observe is not None:
            settings["observable"] = self.observe.name
        return settings
