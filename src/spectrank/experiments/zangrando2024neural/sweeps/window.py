r"""What the rank of minibatch gradients says about the rank of a weight: where it does.

    eta  learning rate      lambda  weight decay      B  batch size      m  steps

Under SGD without momentum the last m minibatches give a weight at most m B ranks, and
what was there before has shrunk to (1 - eta lambda)^m. At usual settings the weight has
fewer singular values than m B when that factor is small, and nothing is said; batches
of one sample and a large eta lambda are a setting in which something is.
Source (derived): tests/collapse/certificates/test_collapse_window.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.collapse.certificates import window_bound, window_rank
from spectrank.experiments.claims import Relation
from spectrank.experiments.images import Images
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.experiments.zangrando2024neural.claims import KEY
from spectrank.experiments.zangrando2024neural.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe, train
from spectrank.train import FleetView

RECIPE = Recipe(momentum=0.0, batch_size=1, tail=0.0, least_steps=3000)
_LAYER = "2.weight"
_ROUNDING = 1e-5
"""By which a ratio may exceed 1 after float32 steps."""
_SHARE = 0.5


def says_nothing(
    data: str, protocol: str, network: Mlp, cells: Sequence[Cell], num_seeds: int
) -> Question:
    """Return the question whether the window rank is vacuous in a sweep.

    Args:
        data: Name of the data set.
        protocol: Of the sweep, in words.
        network: What is trained.
        cells: Whose settings are read; SGD without momentum.
        num_seeds: Networks of each; they differ in nothing that is asked.

    Returns:
        The question.
    """
    claim = asking.ours(
        "batch-size.window-rank-says-nothing",
        data,
        "At these settings the window rank (batch size times the steps in which what "
        "was there before decays to a hundredth) exceeds the number of singular values "
        "of every hidden layer, so that the rank of minibatch gradients alone bounds "
        "nothing. It follows from the settings; no network enters.",
        protocol=protocol,
        quantity="least_ratio_of_window_rank_to_size",
        relation="at_least",
        expected=1.0,
        source="derived: tests/collapse/certificates/test_collapse_window.py",
    )
    sizes = [float(cell.recipe.batch_size or 0) for cell in cells]
    ratios = [_least_ratio(network, cell) for cell in cells]

    def every(_recorded: np.ndarray) -> np.ndarray:
        return np.tile(ratios, (num_seeds, 1))

    axes = Axes(
        "batch size",
        "window rank over the number of singular values",
        claim.quantity,
        x_scale="log",
        y_scale="log",
    )
    return Question(
        claim,
        lambda recorded: every(recorded).min(1),
        axes,
        (Line("hidden layers, the least", sizes, every, None),),
    )


def _least_ratio(network: Mlp, cell: Cell) -> float:
    assert cell.recipe.batch_size is not None
    model = network.draw(torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=cell.recipe.learning_rate,
        momentum=cell.recipe.momentum,
        weight_decay=cell.weight_decay,
    )
    rows = window_rank(optimizer, model, batch_size=cell.recipe.batch_size)
    return float(min(row["value"] / row["bound"] for row in rows[:-1]))


@final
@dataclass(frozen=True)
class Design:
    """Training by single samples, looked back upon from its end.

    Attributes:
        images: What is learned.
        network: What is trained; its second weight is square.
        weight_decay: lambda.
        lengths: m, ascending multiples of the first; the last is below the width.
        num_seeds: R.
    """

    images: Images
    network: Mlp
    weight_decay: float
    lengths: tuple[int, ...]
    num_seeds: int

    @property
    def name(self) -> str:
        """Of the part."""
        return f"mlp-window-{self.images.data}"

    def part(self) -> Part:
        """Return the experiment in the form that is run.

        Returns:
            The part.
        """
        data = self.images.data
        return question_part(
            self.name,
            (self._holds(), self._says_something()),
            self.record,
            settings={**asdict(self), "recipe": asdict(RECIPE)},
            num_steps=1,
            data=lambda: {data: dict(self.images.sha256)},
        )

    def record(self, seed: int, tick: Tick) -> np.ndarray:
        """Train, and bound the second weight by every window that ends the training.

        Args:
            seed: Base seed.
            tick: Called at the end.

        Returns:
            (R, M, 2): distance to rank m and its bound, over the norm of the weight;
            NaN where the training diverged.
        """
        num = self._num_steps
        recipe = replace(RECIPE, least_steps=num, most_steps=num)
        kept: dict[int, Tensor] = {}

        def keep(step: int, view: FleetView) -> None:
            length = num - step
            if length in self.lengths:
                kept[length] = view.parameters()[_LAYER]

        trained = train(
            Cell(self.network, self.weight_decay, recipe),
            self.images,
            num_seeds=self.num_seeds,
            seed=seed,
            stream=(KEY, self.name),
            on_step=keep,
            observe_every=self.lengths[0],
        )
        last = trained.result.parameters[_LAYER]
        found = np.full((self.num_seeds, len(self.lengths), 2), np.nan)
        for r, status in enumerate(trained.result.status):
            if status == "nonfinite":
                continue
            for n, length in enumerate(self.lengths):
                found[r, n] = self._bounded(last[r], kept[length][r], length)
        tick()
        return found

    @property
    def _num_steps(self) -> int:
        """All steps, a multiple of the first length, so that every start is seen."""
        step = self.lengths[0]
        return -(-RECIPE.num_steps(self.weight_decay) // step) * step

    def _bounded(
        self, weight: Tensor, before: Tensor, length: int
    ) -> tuple[float, float]:
        bound = window_bound(
            weight,
            before,
            [RECIPE.learning_rate] * length,
            weight_decay=self.weight_decay,
            batch_rank=1,
        )
        whole = bound.weight_norm.value
        return bound.distance.value / whole, bound.bound.value / whole

    def _holds(self) -> Question:
        def worst(recorded: np.ndarray) -> np.ndarray:
            return np.asarray((recorded[..., 0] / recorded[..., 1]).max(1))

        return self._ask(
            "window.certificate",
            "The second weight is no farther from rank m than what is left of the "
            "weight m steps before: the largest ratio over the windows. An identity of "
            "the steps: a violation would be an error of ours.",
            "largest_ratio_of_distance_to_bound",
            worst,
            "at_most",
            1.0,
            tolerance=_ROUNDING,
        )

    def _says_something(self) -> Question:
        return self._ask(
            "window.says-something",
            f"At batches of one and a large decay the window of {self.lengths[-1]} "
            "steps, fewer than the weight has singular values, certifies the second "
            "weight to within half of its norm of that rank.",
            "relative_window_bound",
            lambda recorded: recorded[:, -1, 1],
            "at_most",
            _SHARE,
        )

    def _ask(
        self,
        name: str,
        statement: str,
        quantity: str,
        estimates: Estimates,
        relation: Relation,
        expected: float,
        *,
        tolerance: float = 0.0,
    ) -> Question:
        listed = ", ".join(map(str, self.lengths))
        claim = asking.ours(
            name,
            self.images.data,
            statement,
            protocol=f"{self.network.text()} on {self.images.data}, weight decay "
            f"{self.weight_decay:g}, the last {listed} of {self._num_steps} steps, "
            f"{self.num_seeds} networks; {RECIPE.text()}",
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
            source="derived: tests/collapse/certificates/test_collapse_window.py; "
            "after Galanti, Siegel, Gupte & Poggio, arXiv:2206.05794",
        )
        axes = Axes(
            "steps m, the rank that they can give",
            "over the norm of W",
            "relative_distance_to_rank",
            x_scale="log",
            y_scale="log",
        )
        lines = (
            Line("measured", self.lengths, lambda recorded: recorded[..., 0], None),
            Line("bound", self.lengths, lambda recorded: recorded[..., 1], None),
        )
        return Question(claim, estimates, axes, lines)
