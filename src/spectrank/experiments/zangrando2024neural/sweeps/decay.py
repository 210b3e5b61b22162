"""Rank against weight decay, layer by layer, and without the small singular values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.images import Images
from spectrank.experiments.questions import Axes, Estimates, Line, Question
from spectrank.experiments.zangrando2024neural.networks import Network
from spectrank.experiments.zangrando2024neural.removal import questions as removal
from spectrank.experiments.zangrando2024neural.sweeps import asking
from spectrank.experiments.zangrando2024neural.sweeps.design import Asked, Sweep
from spectrank.experiments.zangrando2024neural.training import Cell, Recipe

_SHOWN = 16
"""Singular values of a layer in the figure."""

_PILOT = (
    f"no slope where the variation spans less than a factor of {asking.LEAST_SPAN:g}; "
    "on digits with base seed 1000 the slope was 3.0 to 3.7, across the layers of one "
    "weight decay 1.9 to 7.5"
)


def sweep(
    name: str,
    images: Images,
    network: Network,
    decays: Sequence[float],
    *,
    recipe: Recipe,
    num_seeds: int,
) -> Sweep:
    """Return the sweep of the weight decay.

    Args:
        name: Of the sweep, ahead of its claims' names; ``""`` for perceptrons.
        images: What is learned.
        network: What is trained.
        decays: Weight decays, ascending.
        recipe: Of the training.
        num_seeds: Networks at each.

    Returns:
        The sweep.
    """
    prefix, data = f"{name}." if name else "", images.data
    layers = network.num_layers - 1
    listed = ", ".join(f"{x:g}" for x in decays)
    protocol = (
        f"{network.text()} on {data}, weight decays {listed}, {num_seeds} networks "
        f"each; {recipe.text()}"
    )
    every = tuple(range(len(decays)))
    asked = [
        Asked(question, every)
        for question in (
            _falls(prefix, data, protocol, layers, decays),
            _every_layer(prefix, data, protocol, network, decays),
            _order(prefix, data, protocol, layers, decays),
            _bound_tightens(prefix, data, protocol, layers, decays),
        )
    ]
    able = asking.able(network)
    asked += [
        Asked(question, every, asking.distances_by_variation(able))
        for question in _variation(prefix, data, protocol, able)
    ]
    held = asking.certificate(
        f"{prefix}weight-decay", data, protocol, layers, decays, asking.WEIGHT_DECAY
    )
    cut = [
        Asked(question, every)
        for question in removal.questions(prefix, data, protocol, decays)
    ]
    return Sweep(
        name=f"{name or 'mlp'}-weight-decay-{data}",
        images=images,
        cells=tuple(Cell(network, x, recipe) for x in decays),
        num_seeds=num_seeds,
        asked=(*asked, held, *cut),
    )


def _falls(
    prefix: str, data: str, protocol: str, layers: int, decays: Sequence[float]
) -> Question:
    claim = asking.ours(
        f"{prefix}weight-decay.rank-falls",
        data,
        "The numerical rank, a mean over the hidden layers, falls as the weight decay "
        "grows.",
        protocol=protocol,
        quantity="mean_numerical_rank",
        relation="decreasing",
        source="protocol and reading of rank ours",
        version="v1",
    )
    return Question(
        claim,
        lambda recorded: asking.hidden(recorded, "rank", layers).mean(-1),
        asking.rank_axes(asking.WEIGHT_DECAY),
        asking.rank_lines(layers + 1, decays),
    )


def _every_layer(
    prefix: str, data: str, protocol: str, network: Network, decays: Sequence[float]
) -> Question:
    layers = network.num_layers - 1
    claim = asking.ours(
        f"{prefix}weight-decay.every-hidden-layer",
        data,
        "From the smallest weight decay to the largest every hidden layer loses at "
        "least a quarter of its numerical rank (the layer that loses least).",
        protocol=protocol,
        quantity="least_share_of_rank_lost",
        relation="at_least",
        expected=0.25,
    )

    def lost(recorded: np.ndarray) -> np.ndarray:
        ranks = asking.hidden(recorded, "rank", layers)
        return np.asarray((1.0 - ranks[:, -1] / ranks[:, 0]).min(-1))

    shown = [min(_SHOWN, size) for size in network.sizes]

    def values(p: int, layer: int) -> Estimates:
        def of(recorded: np.ndarray) -> np.ndarray:
            sigma = recorded["layers"]["sigma"][:, p, layer]
            return np.asarray(sigma[:, : shown[layer]] / sigma[:, :1])

        return of

    axes = Axes(
        "index of the singular value",
        "singular value over the largest",
        "relative_singular_value",
        y_scale="log",
    )
    lines = tuple(
        Line(
            f"W_{layer + 1}, decay {decays[p]:g}",
            tuple(range(1, shown[layer] + 1)),
            values(p, layer),
            None,
        )
        for layer in range(layers)
        for p in (0, len(decays) - 1)
    )
    return Question(claim, lost, axes, lines)


def _order(
    prefix: str, data: str, protocol: str, layers: int, decays: Sequence[float]
) -> Question:
    claim = asking.ours(
        f"{prefix}weight-decay.order-of-layers",
        data,
        "Ranks fall first near the output: the numerical rank, a mean over the weight "
        "decays, decreases from each hidden layer to the next.",
        protocol=protocol,
        quantity="numerical_rank",
        relation="decreasing",
    )

    def at(p: int) -> Estimates:
        return lambda recorded: asking.hidden(recorded, "rank", layers)[:, p]

    lines = tuple(
        Line(f"decay {x:g}", tuple(range(1, layers + 1)), at(p), None)
        for p, x in enumerate(decays)
    )
    return Question(
        claim,
        lambda recorded: asking.hidden(recorded, "rank", layers).mean(1),
        asking.rank_axes("layer", "linear"),
        lines,
    )


def _bound_tightens(
    prefix: str, data: str, protocol: str, layers: int, decays: Sequence[float]
) -> Question:
    claim = asking.ours(
        f"{prefix}weight-decay.bound-tightens",
        data,
        "The certified relative distance to rank K, residual included, a mean over "
        "the hidden layers, falls as the weight decay grows; it says nothing from 1 "
        "on.",
        protocol=protocol,
        quantity="mean_relative_bound",
        relation="decreasing",
    )

    axes = Axes(
        asking.WEIGHT_DECAY,
        "bound of the distance to rank K over the norm of W",
        "relative_rank_bound",
        x_scale="log",
        y_scale="log",
    )
    return Question(
        claim,
        lambda recorded: asking.bounds(recorded)[:, :, :layers].mean(-1),
        axes,
        tuple(
            Line(f"W_{n + 1}", tuple(decays), asking.bound_of(n), None)
            for n in range(layers)
        ),
    )


def _variation(
    prefix: str, data: str, protocol: str, able: list[int]
) -> list[Question]:
    """Proportion, as the abstract has it, and what the pilot left of it."""
    proportional = asking.ours(
        f"{prefix}weight-decay.distance-in-proportion",
        data,
        "Weights approach rank K in proportion to the total cluster variation: over "
        "the hidden layers and weight decays of a network the relative distance to "
        "rank K has log-log slope 1, within a quarter, on the relative within-class "
        "variation of the layer's inputs.",
        protocol=f"{protocol}; {_PILOT}",
        quantity="log_log_slope",
        relation="equals",
        expected=1.0,
        tolerance=0.25,
        source="reading of proportion as a slope, across layers and decays, ours",
        version="v3",
    )
    at_least = asking.ours(
        f"{prefix}weight-decay.distance-follows-variation",
        data,
        "Over the hidden layers and weight decays of a network the relative distance "
        "to rank K grows with the relative within-class variation of the layer's "
        "inputs, faster than in proportion: its log-log slope is at least 1. That is "
        "not proportionality, which is asked beside it.",
        protocol=f"{protocol}; chosen after the pilot: {_PILOT}",
        quantity="log_log_slope",
        relation="at_least",
        expected=1.0,
    )

    def slopes(recorded: np.ndarray) -> np.ndarray:
        x = recorded["layers"]["rtcv"][:, :, able]
        y = recorded["layers"]["distance"][:, :, able]
        return asking.log_slopes(x.reshape(len(x), -1), y.reshape(len(y), -1))

    axes = asking.distance_axes("relative within-class variation of the inputs")
    return [Question(claim, slopes, axes, ()) for claim in (proportional, at_least)]
