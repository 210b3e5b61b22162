"""Truncation during training: every so many steps the weights fall back to rank K.

Between two truncations a fleet trains as usual, by SGD without momentum, so that no
state is carried over them but the weights. Both arms start at the same networks and
meet the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.images import Images
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Axes, Line, Question, question_part
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.claims import KEY, claim
from spectrank.experiments.zangrando2024neural.networks import (
    NUM_CLASSES,
    Mlp,
)
from spectrank.experiments.zangrando2024neural.removal.questions import LOSS
from spectrank.experiments.zangrando2024neural.removal.truncation import truncated
from spectrank.experiments.zangrando2024neural.training import Recipe
from spectrank.train import SGD, FleetResult, stack, train_fleet
from spectrank.train.fleet.threads import single_threaded

RECIPE = Recipe(learning_rate=0.2, momentum=0.0)


@final
@dataclass(frozen=True)
class Design:
    """What is trained, and how often it is truncated.

    Attributes:
        images: What is learned.
        network: What is trained.
        weight_decay: lambda.
        num_segments: Stretches of training; a truncation ends each.
        num_seeds: R.
    """

    images: Images
    network: Mlp
    weight_decay: float
    num_segments: int
    num_seeds: int

    @property
    def num_steps(self) -> int:
        """Steps of a stretch."""
        return -(-RECIPE.num_steps(self.weight_decay) // self.num_segments)

    @property
    def name(self) -> str:
        """Of the part."""
        return f"removal-during-training-{self.images.data}"

    def part(self) -> Part:
        """Return the experiment in the form that is run.

        Returns:
            The part.
        """
        settings = {**asdict(self), "recipe": asdict(RECIPE)}
        data = self.images.data
        return question_part(
            self.name,
            (self._keeps(), self._little_to_remove()),
            self.record,
            settings=settings,
            num_steps=2 * self.num_segments,
            data=lambda: {data: dict(self.images.sha256)},
        )

    def record(self, seed: int, tick: Tick) -> np.ndarray:
        """Train both arms.

        Args:
            seed: Base seed.
            tick: Called after every stretch.

        Returns:
            (R, 2, S, 2): arms without and with truncation; after each stretch the test
            accuracy, then the largest relative distance to rank K of a hidden layer,
            both before the truncation. The accuracy of the last one is taken after it.
        """
        arms = [self._arm(seed, tick, cut=cut) for cut in (False, True)]
        return np.stack(arms, axis=1)

    def _arm(self, seed: int, tick: Tick, *, cut: bool) -> np.ndarray:
        stream = (KEY, self.name)
        drawn = [
            self.network.draw(derive_generator(seed, *stream, "start", r))
            for r in range(self.num_seeds)
        ]
        values: Mapping[str, Tensor] = stack(drawn)
        found = np.empty((self.num_seeds, self.num_segments, 2))
        for segment in range(self.num_segments):
            result = self._stretch(drawn[0], values, seed, segment)
            found[:, segment] = self._judged(result)
            values = _cut(result.parameters) if cut else result.parameters
            tick()
        if cut:
            found[:, -1, 0] = self._accuracy(drawn[0], values)
        return found

    def _stretch(
        self,
        template: torch.nn.Sequential,
        values: Mapping[str, Tensor],
        seed: int,
        segment: int,
    ) -> FleetResult:
        total, before = self.num_steps * self.num_segments, self.num_steps * segment
        train, test = self.images.train, self.images.test
        with single_threaded(torch.device("cpu")):
            return train_fleet(
                template,
                values,
                train.inputs,
                train.labels,
                optimizer=SGD(
                    learning_rate=RECIPE.learning_rate, weight_decay=self.weight_decay
                ),
                batch_size=RECIPE.batch_size,
                seeds=[
                    derive_seed(seed, KEY, self.name, "batches", r, segment)
                    for r in range(self.num_seeds)
                ],
                max_steps=self.num_steps,
                schedule=lambda step: RECIPE.factor(before + step, total),
                record_every=self.num_steps,
                evaluations={"test": (test.inputs, test.labels)},
            )

    def _judged(self, result: FleetResult) -> np.ndarray:
        """(R, 2) accuracy and largest relative distance to rank K."""
        distances = []
        for value in _hidden(result.parameters).values():
            sigma = torch.linalg.svdvals(value.double())
            tail = sigma[:, NUM_CLASSES:].square().sum(1)
            distances.append((tail / sigma.square().sum(1)).sqrt())
        worst = torch.stack(distances).amax(0).numpy()
        return np.stack([result.evaluations["test_accuracy"], worst], axis=1)

    def _accuracy(
        self, template: torch.nn.Sequential, values: Mapping[str, Tensor]
    ) -> np.ndarray:
        test = self.images.test
        found = []
        for r in range(self.num_seeds):
            own = {name: value[r] for name, value in values.items()}
            with torch.no_grad():
                outputs = torch.func.functional_call(template, own, (test.inputs,))
            found.append(float((outputs.argmax(1) == test.labels).double().mean()))
        return np.array(found)

    def _protocol(self) -> str:
        return (
            f"{self.network.text()} on {self.images.data}, weight decay "
            f"{self.weight_decay:g}, every hidden layer truncated at rank "
            f"{NUM_CLASSES} after every {self.num_steps} of "
            f"{self.num_steps * self.num_segments} steps, {self.num_seeds} networks, "
            f"paired; {RECIPE.text()}"
        )

    def _lines(self, column: int) -> tuple[Line, ...]:
        x = tuple(self.num_steps * (n + 1) for n in range(self.num_segments))
        return (
            Line("untouched", x, lambda recorded: recorded[:, 0, :, column], None),
            Line("truncated", x, lambda recorded: recorded[:, 1, :, column], None),
        )

    def _keeps(self) -> Question:
        data = self.images.data
        asked = claim(
            "removal.during-training",
            "Truncating every hidden layer at rank K during training costs at most a "
            f"hundredth of test accuracy ({data}).",
            protocol=self._protocol(),
            quantity="difference_of_accuracies",
            relation="at_least",
            expected=-LOSS,
            source="derived: tests/experiments/zangrando2024neural_sweeps",
            data=data,
        )
        return Question(
            asked,
            lambda recorded: recorded[:, 1, -1, 0] - recorded[:, 0, -1, 0],
            Axes("steps", "test accuracy", "accuracy"),
            self._lines(0),
        )

    def _little_to_remove(self) -> Question:
        data = self.images.data
        asked = claim(
            "removal.during-training.stays-low",
            "Truncated during training, the farthest hidden layer ends closer to rank "
            "K, before the last truncation, than without. A weak claim: the last "
            "stretch starts at rank K and its steps are small, so that little can "
            f"return ({data}).",
            protocol=self._protocol(),
            quantity="ratio_of_relative_distances",
            relation="at_most",
            expected=1.0,
            source="derived: tests/experiments/zangrando2024neural_sweeps",
            data=data,
        )
        return Question(
            asked,
            lambda recorded: recorded[:, 1, -1, 1] / recorded[:, 0, -1, 1],
            Axes("steps", "largest relative distance to rank K", "relative_distance"),
            self._lines(1),
        )


def _hidden(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stacked weights of all layers but the last."""
    weights = {name: v for name, v in values.items() if v.ndim == 3}
    return dict(list(weights.items())[:-1])


def _cut(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**values, **{n: _all_cut(v) for n, v in _hidden(values).items()}}


def _all_cut(stacked: Tensor) -> Tensor:
    cut = [truncated(weight, NUM_CLASSES) for weight in stacked]
    return torch.stack(cut).to(stacked.dtype)
