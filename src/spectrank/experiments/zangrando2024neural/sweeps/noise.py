"""Rank and distance to rank K against the within-class variation of the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.images import Images
from spectrank.experiments.questions import Question
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Sweep
from spectrank.experiments.zangrando2024neural.sweeps.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps.training import Cell, Recipe

_AXIS = "standard deviation of the noise in a pixel"


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
            Asked(
                _at_most_linear(data, protocol),
                every,
                asking.distances_by_variation(asking.able(network)),
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


def _at_most_linear(data: str, protocol: str) -> Question:
    claim = asking.ours(
        "noise.distance-at-most-linear",
        data,
        "The first layer's distance to rank K grows with the within-class variation of "
        "its inputs no faster than in proportion: its log-log slope is at most 1.",
        protocol=protocol,
        quantity="log_log_slope",
        relation="at_most",
        expected=1.0,
        source="reading of the form of the bound, a constant times the variation, ours",
    )

    def slopes(recorded: np.ndarray) -> np.ndarray:
        first = recorded["layers"][:, :, 0]
        return asking.log_slopes(first["wcv"], first["distance"] * first["norm"])

    axes = asking.distance_axes("relative within-class variation of the inputs")
    return Question(claim, slopes, axes, ())
