"""Negative controls: no weight decay, AdamW, BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spectrank.experiments.claims import Relation
from spectrank.experiments.images import Images
from spectrank.experiments.questions import Estimates, Line, Question
from spectrank.experiments.zangrando2024neural.networks import Cnn, Mlp
from spectrank.experiments.zangrando2024neural.removal.after import RULES
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Sweep
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe

_ARMS = ("SGD", "no decay", "AdamW", "BatchNorm")
_SGD, _FREE, _ADAMW, _NORM = range(len(_ARMS))


def sweep(
    name: str,
    images: Images,
    network: Mlp | Cnn,
    *,
    weight_decay: float,
    recipe: Recipe,
    adamw: tuple[float, float],
    num_seeds: int,
) -> Sweep:
    """Return the controls, beside SGD with weight decay.

    Args:
        name: Ahead of the claims' names; ``""`` for perceptrons.
        images: What is learned.
        network: What is trained, without normalisation.
        weight_decay: lambda of SGD and of the normalised network.
        recipe: Of SGD; without decay it runs as long as with it.
        adamw: Learning rate and decay of AdamW.
        num_seeds: Networks of each.

    Returns:
        The sweep.
    """
    prefix, data = f"{name}." if name else "", images.data
    free = replace(recipe, most_steps=recipe.num_steps(weight_decay))
    adam = replace(recipe, rule="adamw", learning_rate=adamw[0])
    protocol = (
        f"{network.text()} on {data}, {num_seeds} networks each of: weight decay "
        f"{weight_decay:g}; none; AdamW with learning rate {adamw[0]:g} and decay "
        f"{adamw[1]:g}; BatchNorm after every hidden layer with weight decay "
        f"{weight_decay:g}; {recipe.text()}"
    )
    asked = _Asked(prefix, data, protocol, network)
    return Sweep(
        name=f"{name or 'mlp'}-controls-{data}",
        images=images,
        cells=(
            Cell(network, weight_decay, recipe),
            Cell(network, 0.0, free),
            Cell(network, adamw[1], adam),
            Cell(replace(network, normalised=True), weight_decay, recipe),
        ),
        num_seeds=num_seeds,
        asked=tuple(Asked(each) for each in asked.all()),
    )


class _Asked:
    """Questions that share a protocol."""

    def __init__(
        self, prefix: str, data: str, protocol: str, network: Mlp | Cnn
    ) -> None:
        self._prefix, self._data, self._protocol = prefix, data, protocol
        self._layers, self._able = network.num_layers - 1, asking.able(network)

    def all(self) -> list[Question]:
        return [*self._without_decay(), *self._adamw(), *self._batchnorm()]

    def _without_decay(self) -> list[Question]:
        index = list(RULES).index("classes")
        return [
            self._ask(
                "no-decay.rank-stays",
                "Without weight decay every hidden layer keeps at least nine tenths of "
                "its rank.",
                "least_share_of_full_rank",
                lambda recorded: (
                    self._hidden(recorded, "rank") / self._hidden(recorded, "size")
                )[:, _FREE].min(-1),
                "at_least",
                0.9,
            ),
            self._ask(
                "no-decay.truncation-hurts",
                "Without weight decay truncating every layer at rank K costs more test "
                "accuracy than with it, by at least a hundredth.",
                "difference_of_changes_of_accuracy",
                lambda recorded: (
                    recorded["removed"]["change"][:, _FREE, index]
                    - recorded["removed"]["change"][:, _SGD, index]
                ),
                "at_most",
                -0.01,
            ),
        ]

    def _adamw(self) -> list[Question]:
        return [
            self._ask(
                "adamw.not-stationary",
                "AdamW does not end at a stationary point of the loss with its own "
                "decay: the relative residual of every layer is at least a half.",
                "least_relative_residual",
                lambda recorded: np.nanmin(
                    recorded["layers"]["residual"][:, _ADAMW], axis=-1
                ),
                "at_least",
                0.5,
            ),
            self._ask(
                "adamw.bound-without-residual-fails",
                "With AdamW's decay in it the bound without residual is wrong: hidden "
                "layers are farther from rank K than it says (the least ratio).",
                "least_ratio_of_distance_to_bound",
                lambda recorded: (
                    self._hidden(recorded, "distance") / self._hidden(recorded, "b3")
                )[:, _ADAMW, self._able].min(-1),
                "at_least",
                1.0,
            ),
        ]

    def _batchnorm(self) -> list[Question]:
        return [
            self._ask(
                "batchnorm.not-stationary",
                "A layer right before BatchNorm has no stationary point but zero: its "
                "relative residual is at least 1.",
                "least_relative_residual",
                lambda recorded: self._hidden(recorded, "residual")[:, _NORM].min(-1),
                "at_least",
                1.0,
                # BatchNorm's eps breaks the invariance to scale a little.
                tolerance=0.01,
            ),
            self._ask(
                "batchnorm.rank-stays-higher",
                "With BatchNorm the hidden layers keep a higher numerical rank than "
                "without it at the same weight decay (mean difference).",
                "difference_of_numerical_ranks",
                lambda recorded: (
                    self._hidden(recorded, "rank")[:, _NORM]
                    - self._hidden(recorded, "rank")[:, _SGD]
                ).mean(-1),
                "at_least",
                0.0,
            ),
        ]

    def _hidden(self, recorded: np.ndarray, name: str) -> np.ndarray:
        return asking.hidden(recorded, name, self._layers)

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
        claim = asking.ours(
            f"{self._prefix}control.{name}",
            self._data,
            statement,
            protocol=self._protocol,
            quantity=quantity,
            relation=relation,
            expected=expected,
            tolerance=tolerance,
        )
        axes = asking.rank_axes("layer", "linear")
        return Question(claim, estimates, axes, self._lines())

    def _lines(self) -> tuple[Line, ...]:
        layers: Sequence[float] = tuple(range(1, self._layers + 1))

        def of(arm: int) -> Estimates:
            return lambda recorded: self._hidden(recorded, "rank")[:, arm]

        return tuple(Line(text, layers, of(n), None) for n, text in enumerate(_ARMS))
