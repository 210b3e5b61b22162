"""Sweeps: the cells that are trained, what is recorded, what is asked of it.

R  seeds      P  cells      L  weight matrices, padded with NaN where there are fewer
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from torch import nn

from spectrank.experiments.figures import curve
from spectrank.experiments.images import Images
from spectrank.experiments.papers import Part, PartResult, Tick
from spectrank.experiments.questions import Estimates, Question, figures_of
from spectrank.experiments.verdicts import Row, not_applicable
from spectrank.experiments.zangrando2024neural.claims import KEY
from spectrank.experiments.zangrando2024neural.removal import after
from spectrank.experiments.zangrando2024neural.sweeps.points import (
    layer_type,
    measure,
)
from spectrank.experiments.zangrando2024neural.training import (
    DECAY_TIMES,
    Cell,
    Trained,
    train,
)

RESIDUAL = 0.1
"""A network whose layers all have a relative residual below it counts as trained."""


@final
@dataclass(frozen=True)
class Pairs:
    """Points of a figure whose abscissa is measured too.

    Attributes:
        series: Their label.
        x: To (R, G); the mean over the seeds is shown.
        y: To (R, G).
    """

    series: str
    x: Estimates
    y: Estimates


@final
@dataclass(frozen=True)
class Asked:
    """A question and what it needs.

    Attributes:
        question: Reads records (R, P) of `Sweep.type`.
        settled: Cells that must have been trained to the end; none for a question
            that holds at any parameter value.
        pairs: More points of its figure.
    """

    question: Question
    settled: tuple[int, ...] = ()
    pairs: tuple[Pairs, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class Sweep:
    """Cells on one data set, and the questions that they answer.

    Attributes:
        name: Of the part.
        images: What is learned.
        cells: P of them.
        num_seeds: R, networks of every cell.
        asked: The questions.
    """

    name: str
    images: Images
    cells: tuple[Cell, ...]
    num_seeds: int
    asked: tuple[Asked, ...]

    @property
    def type(self) -> np.dtype[np.void]:
        """What is recorded of a network: test accuracy, layers, truncations."""
        layers = max(cell.network.num_layers for cell in self.cells)
        values = max(max(cell.network.sizes) for cell in self.cells)
        fields: list[Any] = [
            ("accuracy", "f8"),
            ("layers", layer_type(values), (layers,)),
            ("removed", after.TYPE),
        ]
        return np.dtype(fields)

    def part(self) -> Part:
        """Return the sweep in the form that is run.

        Returns:
            The part.
        """
        return Part(
            name=self.name,
            claims=tuple(asked.question.claim for asked in self.asked),
            settings=self._settings(),
            num_steps=len(self.cells),
            run=self._run,
        )

    def record(self, seed: int, tick: Tick) -> np.ndarray:
        """Train and measure.

        Args:
            seed: Base seed.
            tick: Called after every cell.

        Returns:
            (R, P) of `type`.
        """
        found = np.empty((self.num_seeds, len(self.cells)), dtype=self.type)
        for p, cell in enumerate(self.cells):
            trained = train(
                cell,
                self.images,
                num_seeds=self.num_seeds,
                seed=seed,
                stream=(KEY, self.name),
            )
            for r in range(self.num_seeds):
                self._observe(cell, trained, r, found[r, p : p + 1])
            tick()
        return found

    def rows(self, recorded: np.ndarray, seed: int) -> list[Row]:
        """Return the verdicts and the points of the figures.

        Args:
            recorded: (R, P) of `type`.
            seed: Base seed.

        Returns:
            Rows of claims and measurements.
        """
        found: list[Row] = []
        for asked in self.asked:
            rows = asked.question.rows(recorded, seed)
            if reason := self._unsettled(recorded, asked.settled):
                rows[0] = not_applicable(asked.question.claim, reason)
            found += rows
            for pairs in asked.pairs:
                found += curve(
                    asked.question.claim,
                    pairs.series,
                    pairs.x(recorded).mean(0),
                    pairs.y(recorded),
                    None,
                    seed,
                    metric=asked.question.axes.metric,
                )
        return found

    def _run(self, seed: int, tick: Tick) -> PartResult:
        rows = self.rows(self.record(seed, tick), seed)
        figures = figures_of([asked.question for asked in self.asked])
        sums: Mapping[str, Mapping[str, str]]
        sums = {self.images.data: dict(self.images.sha256)}
        return PartResult(tuple(rows), figures, sums)

    def _observe(self, cell: Cell, trained: Trained, r: int, out: np.ndarray) -> None:
        model = trained.result.module(r)
        assert isinstance(model, nn.Sequential)
        layers = measure(
            model,
            trained.inputs[r],
            trained.labels,
            weight_decay=cell.weight_decay,
            num_values=out["layers"]["sigma"].shape[-1],
        )
        for name in layers.dtype.names or ():
            out["layers"][name] = math.nan
        out["layers"][0, : len(layers)] = layers
        out["accuracy"] = after.accuracy(model, *trained.test)
        certified = [int(k) for k in layers["certified"]]
        out["removed"] = after.remove(model, trained.test, certified)

    def _unsettled(self, recorded: np.ndarray, cells: Sequence[int]) -> str | None:
        for p in cells:
            cell = self.cells[p]
            times = cell.recipe.decay_times(cell.weight_decay)
            worst = float(np.nanmax(recorded["layers"]["residual"][:, p]))
            if times < DECAY_TIMES and not worst <= RESIDUAL:
                return (
                    f"at weight decay {cell.weight_decay:g} training took {times:.3g} "
                    f"of {DECAY_TIMES:g} decay times and left a relative residual of "
                    f"{worst:.3g}, above {RESIDUAL:g}"
                )
        return None

    def _settings(self) -> dict[str, Any]:
        return {
            "images": asdict(self.images),
            "cells": [asdict(cell) for cell in self.cells],
            "num_seeds": self.num_seeds,
        }
