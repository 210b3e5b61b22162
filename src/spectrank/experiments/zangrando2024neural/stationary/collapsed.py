r"""Collapsed features make exact ranks: variability 0 gives rank at most K after it.

K distinct inputs, each many times; the labels of copies may differ. Cells are the
inputs. At a stationary point every layer has rank at most K, whatever the labels, and
the softmax layer at most (number of classes) - 1. A path that goes round the collapsed
layer takes the promise away.

R  draws    G  settings
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Axes, Line, Question, question_part
from spectrank.experiments.seeds import derive_generator
from spectrank.experiments.zangrando2024neural.claims import KEY, claim
from spectrank.experiments.zangrando2024neural.stationary.measuring import (
    layer_numbers,
)
from spectrank.experiments.zangrando2024neural.stationary.minima import best_minimum
from spectrank.experiments.zangrando2024neural.stationary.networks import (
    Bypassed,
    linear_layers,
    mlp,
)

NAME = "collapsed"
_NUM_INPUTS = (2, 3)
_NUM_CLASSES = 6
_PER_INPUT = 20
_MAJORITY = 0.9
_DIMENSION = 20
_WIDTH = 16
_WEIGHT_DECAY = 3e-4
_SCREENING, _TOLERANCE = 1e-4, 1e-8
# Three layers without biases have local minima of lower rank, zero among them.
_NUM_STARTS = 3
_CONTROL = len(_NUM_INPUTS)
_NEXT, _LAST, _COLUMNS, _READOUT = range(4)
_SOURCE = (
    "derived: R vanishes where the inputs of a layer are equal within cells, and "
    "1^T W = 0 for the readout of softmax cross-entropy with weight decay"
)


@final
@dataclass(frozen=True)
class CollapsedSize:
    """How much is minimised.

    Attributes:
        num_draws: R sets of inputs and labels.
    """

    num_draws: int


def part(size: CollapsedSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is minimised.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    return question_part(
        f"stationary-{NAME}",
        questions(size),
        record,
        settings={
            "size": asdict(size),
            "num_inputs": _NUM_INPUTS,
            "num_classes": _NUM_CLASSES,
            "per_input": _PER_INPUT,
            "majority": _MAJORITY,
            "dimension": _DIMENSION,
            "width": _WIDTH,
            "weight_decay": _WEIGHT_DECAY,
            "tolerances": [_SCREENING, _TOLERANCE],
            "num_starts": _NUM_STARTS,
        },
        num_steps=size.num_draws,
    )


def measure(size: CollapsedSize, seed: int, tick: Tick) -> np.ndarray:
    """Minimise on repeated inputs with mixed labels.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every draw.

    Returns:
        (R, G, 4): sigma_(K+1) / sigma_1, the largest of the layers; sigma_K / sigma_1
        of the first layer; ||1^T W|| / ||W||_F of the readout; its
        sigma_c / sigma_1, c classes. The last setting is the control.
    """
    found = np.empty((size.num_draws, _CONTROL + 1, 4))
    widths = (_DIMENSION, _WIDTH, _WIDTH, _NUM_CLASSES)
    for r in range(size.num_draws):
        for g, count in enumerate((*_NUM_INPUTS, _NUM_INPUTS[0])):
            generator = derive_generator(seed, KEY, NAME, r, g)
            x, cells, labels = _data(count, generator)
            starts: list[nn.Module] = [
                mlp(widths, generator, bias=False) for _ in range(_NUM_STARTS)
            ]
            if g == _CONTROL:
                noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
                x = torch.cat([x, x + noise], 1)
                starts = [
                    Bypassed(_DIMENSION, _WIDTH, _NUM_CLASSES, generator)
                    for _ in range(_NUM_STARTS)
                ]
            found[r, g] = _ends(starts, x, cells, labels, count)
        tick()
    return found


def _data(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Repeated inputs of norm about 2, their numbers, and labels, some mixed."""
    points = torch.randn(count, _DIMENSION, dtype=torch.float64, generator=generator)
    cells = torch.arange(count * _PER_INPUT) % count
    mixed = torch.randint(_NUM_CLASSES, cells.shape, generator=generator)
    own = torch.rand(cells.shape, generator=generator) < _MAJORITY
    labels = torch.where(own, cells, mixed)
    return 2.0 * points[cells] / _DIMENSION**0.5, cells, labels


def _ends(
    starts: list[nn.Module], x: Tensor, cells: Tensor, labels: Tensor, count: int
) -> tuple[float, ...]:
    model = best_minimum(
        starts,
        x,
        labels,
        weight_decay=_WEIGHT_DECAY,
        tolerance=_TOLERANCE,
        screening=_SCREENING,
    ).model
    layers = layer_numbers(model, x, labels, weight_decay=_WEIGHT_DECAY, cells=cells)
    weights = [layer.weight.detach() for layer in linear_layers(model).values()]
    first = torch.linalg.svdvals(weights[0])
    readout = weights[-1]
    last = torch.linalg.svdvals(readout)
    return (
        float(layers["next"].max()),
        float(first[count - 1] / first[0]),
        float(readout.sum(0).norm() / readout.norm()),
        float(last[-1] / last[0]),
    )


def questions(size: CollapsedSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, G, 4).
    """
    protocol = (
        f"{', '.join(map(str, _NUM_INPUTS))} distinct inputs in R^{_DIMENSION}, "
        f"{_PER_INPUT} copies each, {_MAJORITY:g} of them of one class and the "
        f"rest of any of {_NUM_CLASSES}; {size.num_draws} draws; tanh network without "
        f"biases, of widths {_DIMENSION}-{_WIDTH}-"
        f"{_WIDTH}-{_NUM_CLASSES}, weight decay {_WEIGHT_DECAY:g}, "
        f"{_NUM_STARTS} starts to a gradient of norm {_SCREENING:g}, the lowest of "
        f"them on to {_TOLERANCE:g}"
    )
    axes = Axes("distinct inputs K", "log10 of the ratio", "log10_ratio")

    def ask(
        name: str, statement: str, quantity: str, relation: str, expected: float,
        column: int, settings: slice | list[int], *, worst: str,
    ) -> Question:  # fmt: skip
        def estimates(y: np.ndarray) -> np.ndarray:
            logs = np.log10(np.maximum(y[:, settings, column], 1e-17))
            return np.asarray(getattr(logs, worst)(1))

        def points(y: np.ndarray) -> np.ndarray:
            return np.asarray(np.log10(np.maximum(y[:, :_CONTROL, column], 1e-17)))

        return Question(
            claim(
                f"{NAME}.{name}",
                statement,
                protocol=protocol,
                quantity=quantity,
                relation=relation,  # type: ignore[arg-type]
                expected=expected,
                source=_SOURCE,
            ),
            estimates,
            axes,
            (Line("inputs repeated", _NUM_INPUTS, points, None),),
        )

    every = slice(0, _CONTROL)
    return [
        ask(
            "rank-at-most-k",
            "Variability 0 at the input gives rank at most K in every layer, though "
            "labels differ within cells.",
            "log10_next_singular_value",
            "at_most",
            -5.0,
            _NEXT,
            every,
            worst="max",
        ),
        ask(
            "rank-k-is-reached",
            "Rank K is reached: the first layer's singular value K is above 1e-2 of "
            "the first.",
            "log10_singular_value_k",
            "at_least",
            -2.0,
            _LAST,
            every,
            worst="min",
        ),
        ask(
            "readout-columns-add-up-to-zero",
            "The columns of the softmax layer add up to 0 at a stationary point.",
            "log10_column_sums",
            "at_most",
            -5.0,
            _COLUMNS,
            every,
            worst="max",
        ),
        ask(
            "readout-rank",
            "So its rank is at most the number of classes less 1.",
            "log10_last_singular_value",
            "at_most",
            -5.0,
            _READOUT,
            every,
            worst="max",
        ),
        ask(
            "bypass-control",
            "Control: a path round the collapsed features takes the promise away, the "
            "layer that it feeds exceeds rank K.",
            "log10_next_singular_value",
            "at_least",
            -3.0,
            _NEXT,
            [_CONTROL],
            worst="max",
        ),
    ]
