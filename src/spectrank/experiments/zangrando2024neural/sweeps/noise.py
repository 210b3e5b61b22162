"""Rank and distance to rank K against the within-class variation of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spectrank.experiments.images import Images
from spectrank.experiments.questions import Question
from spectrank.experiments.zangrando2024neural.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.sweeps.design import (
    Asked,
    Pairs,
    Sweep,
)
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe

_AXIS = "standard deviation of the noise in a pixel"
_PILOT = (
    "on digits with base seed 1000 the slope was 0.55; that of the relative distance "
    "was 0.44, or 2.0 on the relative variation"
)


def sweep(
    images: Images,
    network: Mlp,
    noises: Sequence[float],
    *,
    weight_decay: float,
    recipe: Recipe,
    num_seeds: int,
) -> Sweep:
    """Return the sweep of the noise.

    Args:
        images: What is learned.
        network: What is trained.
        noises: Standard deviations, ascending.
        weight_decay: lambda.
        recipe: Of the training.
        num_seeds: Networks at each.

    Returns:
        The sweep.
    """
    data, layers = images.data, network.num_layers - 1
    listed = ", ".join(f"{x:g}" for x in noises)
    protocol = (
        f"{network.text()} on {data}, images of length sqrt(d) with Gaussian noise of "
        f"{listed} in every pixel, weight decay {weight_decay:g}, {num_seeds} networks "
        f"each; {recipe.text()}"
    )
    every = tuple(range(len(noises)))
    return Sweep(
        name=f"mlp-noise-{data}",
        images=images,
        cells=tuple(Cell(network, weight_decay, recipe, noise=x) for x in noises),
        num_seeds=num_seeds,
        asked=(
            Asked(_grows(data, protocol, layers, noises), every),
            *(
                Asked(question, every, (_FIRST,))
                for question in _variation(data, protocol)
            ),
            asking.certificate("noise", data, protocol, layers, noises, _AXIS),
        ),
    )


def _grows(data: str, protocol: str, layers: int, noises: Sequence[float]) -> Question:
    claim = asking.ours(
        "noise.rank-grows",
        data,
        "The numerical rank, a mean over the hidden layers, grows with the "
        "within-class variation of the data.",
        protocol=protocol,
        quantity="mean_numerical_rank",
        relation="increasing",
        source="protocol and reading of rank ours",
        version="v1",
    )
    return Question(
        claim,
        lambda recorded: asking.hidden(recorded, "rank", layers).mean(-1),
        asking.rank_axes(_AXIS, "linear"),
        asking.rank_lines(layers + 1, noises),
    )


def _variation(data: str, protocol: str) -> list[Question]:
    """Proportion, as the abstract has it, and what the pilot left of it."""
    proportional = asking.ours(
        "noise.distance-in-proportion",
        data,
        "Weights approach rank K in proportion to the total cluster variation: over "
        "the noises the first layer's distance to rank K has log-log slope 1, within a "
        "quarter, on the within-class variation of its inputs.",
        protocol=f"{protocol}; {_PILOT}",
        quantity="log_log_slope",
        relation="equals",
        expected=1.0,
        tolerance=0.25,
        source="reading of proportion as a slope, at one weight decay, ours",
        version="v3",
    )
    at_most = asking.ours(
        "noise.distance-at-most-linear",
        data,
        "The first layer's distance to rank K grows with the within-class variation of "
        "its inputs, slower than in proportion: its log-log slope is at most 1. That "
        "is not proportionality, which is asked beside it.",
        protocol=f"{protocol}; chosen after the pilot: {_PILOT}",
        quantity="log_log_slope",
        relation="at_most",
        expected=1.0,
    )
    axes = replace(
        asking.distance_axes("within-class variation of the inputs"),
        y="distance to rank K",
        metric="distance_to_rank",
    )
    return [Question(claim, _slopes, axes, ()) for claim in (proportional, at_most)]


def _slopes(recorded: np.ndarray) -> np.ndarray:
    return asking.log_slopes(_FIRST.x(recorded), _FIRST.y(recorded))


def _distances(recorded: np.ndarray) -> np.ndarray:
    first = recorded["layers"][:, :, 0]
    return np.asarray(first["distance"] * first["norm"])


_FIRST = Pairs("W_1", asking.column("wcv", 0), _distances)
