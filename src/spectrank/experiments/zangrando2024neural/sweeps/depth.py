"""Rank of the last hidden layer against depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.images import Images
from spectrank.experiments.questions import Line, Question
from spectrank.experiments.zangrando2024neural.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Sweep
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe

_AXIS = "number of weight matrices"


def sweep(
    images: Images,
    width: int,
    depths: Sequence[int],
    *,
    weight_decay: float,
    recipe: Recipe,
    num_seeds: int,
) -> Sweep:
    """Return the sweep of the depth.

    Args:
        images: What is learned.
        width: Of the hidden layers.
        depths: Numbers of weight matrices, ascending, at least 2.
        weight_decay: lambda.
        recipe: Of the training.
        num_seeds: Networks at each.

    Returns:
        The sweep.
    """
    data = images.data
    networks = [Mlp(images.num_pixels, width, depth) for depth in depths]
    listed = ", ".join(map(str, depths))
    protocol = (
        f"ReLU networks of {listed} weight matrices and width {width} on {data}, "
        f"weight decay {weight_decay:g}, {num_seeds} networks each; {recipe.text()}"
    )
    last = [depth - 2 for depth in depths]
    claim = asking.ours(
        "depth.last-hidden-rank-falls",
        data,
        "The numerical rank of the last hidden layer falls with depth.",
        protocol=protocol,
        quantity="numerical_rank",
        relation="decreasing",
    )

    def ranks(recorded: np.ndarray) -> np.ndarray:
        return np.stack(
            [recorded["layers"]["rank"][:, p, k] for p, k in enumerate(last)], 1
        )

    question = Question(
        claim,
        ranks,
        asking.rank_axes(_AXIS, "linear"),
        (Line("last hidden layer", tuple(depths), ranks, None),),
    )
    every = tuple(range(len(depths)))
    return Sweep(
        name=f"mlp-depth-{data}",
        images=images,
        cells=tuple(Cell(network, weight_decay, recipe) for network in networks),
        num_seeds=num_seeds,
        asked=(
            Asked(question, every),
            asking.certificate("depth", data, protocol, 1, depths, _AXIS),
        ),
    )
