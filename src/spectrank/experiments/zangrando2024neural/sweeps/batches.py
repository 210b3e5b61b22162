"""Rank against the batch size, at one learning rate that does not fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spectrank.experiments.images import Images
from spectrank.experiments.questions import Axes, Question
from spectrank.experiments.zangrando2024neural.networks import Mlp
from spectrank.experiments.zangrando2024neural.sweeps import asking, window
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Sweep
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe

_AXIS = "batch size"


def sweep(
    images: Images,
    network: Mlp,
    sizes: Sequence[int],
    *,
    weight_decay: float,
    recipe: Recipe,
    num_seeds: int,
) -> Sweep:
    """Return the sweep of the batch size.

    Args:
        images: What is learned.
        network: What is trained.
        sizes: Samples a step, ascending.
        weight_decay: lambda.
        recipe: Of the training but for the batch size; without a tail, so that the
            noise of batches is there to the end.
        num_seeds: Networks at each.

    Returns:
        The sweep.
    """
    data, layers = images.data, network.num_layers - 1
    recipes = [replace(recipe, batch_size=size) for size in sizes]
    listed = ", ".join(map(str, sizes))
    protocol = (
        f"{network.text()} on {data}, batches of {listed} with as many steps each, "
        f"weight decay {weight_decay:g}, {num_seeds} networks each; {recipes[0].text()}"
    )
    claim = asking.ours(
        "batch-size.smaller-batches-lower-rank",
        data,
        "With as many steps, smaller batches leave a lower effective rank, a mean over "
        "the hidden layers.",
        protocol=protocol,
        quantity="mean_effective_rank",
        relation="increasing",
        source="reading of the rank of a minibatch gradient, at most the batch size: "
        "Galanti, Siegel, Gupte & Poggio, arXiv:2206.05794; protocol ours",
    )
    question = Question(
        claim,
        lambda recorded: asking.hidden(recorded, "effective_rank", layers).mean(-1),
        Axes(_AXIS, "effective rank", "effective_rank", x_scale="log"),
        asking.rank_lines(layers, sizes, "effective_rank"),
    )
    cells = tuple(Cell(network, weight_decay, each) for each in recipes)
    return Sweep(
        name=f"mlp-batch-size-{data}",
        images=images,
        cells=cells,
        num_seeds=num_seeds,
        asked=(
            Asked(question, tuple(range(len(sizes)))),
            Asked(window.says_nothing(data, protocol, network, cells, num_seeds)),
            asking.certificate("batch-size", data, protocol, layers, sizes, _AXIS),
        ),
    )
