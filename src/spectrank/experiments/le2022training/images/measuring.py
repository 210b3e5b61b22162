"""What is measured at a checkpoint: laws, bounds, spectra, margins, patterns.

Q  quantities    S  singular values
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.le2022training.images.networks import NUM_VALUES, relus
from spectrank.invariance import (
    ActivationPatterns,
    Laws,
    activation_patterns,
    find_tail,
    margins,
    measure,
)
from spectrank.invariance.certificates import certify
from spectrank.invariance.laws import evaluate_all
from spectrank.metrics import effective_rank, stable_rank
from spectrank.model import Graph
from spectrank.table import Table

Batches = Sequence[tuple[Tensor, Tensor]]
Weights = Mapping[str, Tensor]


@final
class Quantity(IntEnum):
    """Places of the numbers of a checkpoint; singular values follow."""

    RIGHT = 0
    """Share of families of laws that are conserved or explained."""
    SILENT = 1
    """Share of families of quadratic laws without a prediction."""
    RESIDUAL = 2
    """Largest distance to the prediction, in units of a family's largest value."""
    DRIFT = 3
    """Largest drift of a quadratic law, in the same unit."""
    STRUCTURE = 4
    """Largest B(w, g) against what rounding may make of it."""
    EXCESS = 5
    """Largest relative excess over a bound of the tail, 0 where all hold."""
    HOLDS = 6
    """Share of the bounds that hold and say something."""
    ALIGNED = 7
    """Smallest alignment of neighbouring layers of the tail, of [W b] with one output
    and biases."""
    STABLE_RANK = 8
    """Of the layer below the last."""
    EFFECTIVE_RANK = 9
    """Of the same."""
    MARGIN = 10
    """Smallest one of a sample."""
    LOG_LOSS = 11
    """Natural logarithm of the mean loss on all training images."""
    NORMALISED_MARGIN = 12
    """The smallest one by a power of the norm; NaN where not homogeneous."""
    KKT_COSINE = 13
    """Between the parameters and the negative gradient; NaN likewise."""
    SWITCHED = 14
    """Share of (unit, image) that switched since the checkpoint before."""
    SIGN_FLIPS = 15
    """Weights that changed sign since."""
    CLASSES = 16
    """Classes of units of one pattern over units, of those that are not stable."""


NUM_NUMBERS = len(Quantity) + NUM_VALUES


def law_numbers(
    rows: Iterable[Mapping[str, Any]], laws: Laws, start: Weights
) -> dict[Quantity, float]:
    """What the rows of a watch at one step say.

    Args:
        rows: One of each family.
        laws: The families.
        start: Parameters at the start.

    Returns:
        The shares and the largest numbers, NaN where no family has one.
    """
    first = evaluate_all(laws, start)
    scale = {k: max(float(v.abs().max()), 1.0) for k, v in first.items()}
    found = [row | {"scale": scale[row["subject"]]} for row in map(dict, rows)]
    quadratic = [row for row in found if row["variant"] != "linear"]
    verdicts = [row["verdict"] in {"conserved", "explained"} for row in found]
    silent = [row["verdict"] == "not_applicable" for row in quadratic]
    tested = [row for row in found if row["structure"] is not None]
    return {
        Quantity.RIGHT: float(np.mean(verdicts)),
        Quantity.SILENT: float(np.mean(silent)),
        Quantity.RESIDUAL: _largest(
            abs(row["residual"]) / row["scale"]
            for row in found
            if row["residual"] is not None
        ),
        Quantity.DRIFT: _largest(
            row["largest_drift"] / row["scale"] for row in quadratic
        ),
        Quantity.STRUCTURE: _largest(
            row["structure"] / row["structure_tolerance"] for row in tested
        ),
    }


def tail_numbers(
    net: nn.Module, traced: Graph, laws: Laws, start: Weights, *, softmax: bool
) -> dict[Quantity, float]:
    """Bounds on the linear tail now, alignment in it, ranks of its last but one layer.

    The last layer is left out: its bounds are 0 or 1 with one output, whatever the
    training did.

    Args:
        net: Now.
        traced: Its graph.
        laws: Found in it.
        start: Parameters at the start.
        softmax: Whether the loss depends on differences of logits only.

    Returns:
        The numbers.
    """
    stages = find_tail(traced).stages
    table = certify(traced, start=start, now=net, softmax=softmax)
    rows = [row for row in table.frame.to_dicts() if row["bound"] is not None]
    rows = [row for row in rows if row["subject"] != stages[-1].name]
    aligned = [row["value"] for row in rows if row["metric"] == "alignment"]
    if not aligned:
        # Without a bound on it, as with several outputs.
        inside = {name for stage in stages for name in stage.parameters}
        between = Laws(tuple(law for law in laws if set(law.parameters) <= inside))
        numbers = measure(net, between).where(metric="alignment").frame["value"]
        aligned = numbers.to_list()
    below = net.get_parameter(stages[-2].main.weight).detach()
    return {
        # How far a bound holds is no part of whether it does.
        Quantity.EXCESS: max(
            0.0, *(-row["slack"] / max(abs(row["bound"]), 1.0) for row in rows)
        ),
        Quantity.HOLDS: float(np.mean([row["verdict"] == "holds" for row in rows])),
        Quantity.ALIGNED: min(aligned),
        Quantity.STABLE_RANK: float(stable_rank(below)),
        Quantity.EFFECTIVE_RANK: float(effective_rank(below)),
    }


def last_spectrum(net: nn.Module, traced: Graph) -> np.ndarray:
    """Singular values of the last but one layer of the tail.

    Args:
        net: Now.
        traced: Its graph.

    Returns:
        (S,), descending.
    """
    name = find_tail(traced).stages[-2].main.weight
    return np.asarray(torch.linalg.svdvals(net.get_parameter(name).detach()))


def data_numbers(
    net: nn.Module, batches: Batches, previous: ActivationPatterns | None
) -> tuple[dict[Quantity, float], ActivationPatterns]:
    """Margins on the data, and patterns against those of the checkpoint before.

    Args:
        net: Now.
        batches: Images and labels, -1 and 1 for one output.
        previous: Patterns before; None at the start.

    Returns:
        The numbers, NaN for what needs a checkpoint before, and the patterns.
    """
    single = batches[0][1].dtype.is_floating_point
    table = margins(net, batches, loss="logistic" if single else "cross_entropy")
    found = activation_patterns(net, batches, previous=previous, layers=relus(net))
    counts = found.table()
    numbers = {
        Quantity.MARGIN: _only(table, "margin"),
        Quantity.LOG_LOSS: _only(table, "log_loss"),
        Quantity.NORMALISED_MARGIN: _only(table, "normalised_margin"),
        Quantity.KKT_COSINE: _only(table, "kkt_cosine"),
        Quantity.SWITCHED: np.nan,
        Quantity.SIGN_FLIPS: np.nan,
        Quantity.CLASSES: _classes(found),
    }
    if previous is not None:
        rows = counts.where(metric="activation_flips").frame
        all_rows = float((rows["num_units"] * rows["num_rows"]).sum())
        numbers[Quantity.SWITCHED] = float(rows["value"].sum()) / all_rows
        signs = counts.where(metric="weight_sign_flips").frame["value"]
        numbers[Quantity.SIGN_FLIPS] = float(signs.sum())
    return numbers, found


def _classes(found: ActivationPatterns) -> float:
    units = classes = 0
    for layer in found.layers.values():
        stable = {*layer.stably_active.tolist(), *layer.dead.tolist()}
        mixed = [group for group in layer.classes if group[0] not in stable]
        classes += len(mixed)
        units += sum(len(group) for group in mixed)
    return classes / units if units else np.nan


def _only(table: Table, metric: str) -> float:
    return float(table.where(metric=metric).frame["value"].item())


def _largest(numbers: Iterable[float]) -> float:
    return max(numbers, default=np.nan)
