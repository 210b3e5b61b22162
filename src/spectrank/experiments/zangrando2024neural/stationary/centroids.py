"""Networks trained on the class centroids alone forecast those trained on the data.

The full loss is minimised from the centroids' minimum, so that both end in one basin:
what differs is what the variability within classes does.

R  draws    S  noises    D  weight decays
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.collapse.forecasting import centroid_minima, centroids
from spectrank.experiments.figures import listed
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
    question_part,
)
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.claims import KEY, claim
from spectrank.experiments.zangrando2024neural.stationary.measuring import RTOL
from spectrank.experiments.zangrando2024neural.stationary.minima import (
    TOLERANCE,
    best_minimum,
)
from spectrank.experiments.zangrando2024neural.stationary.networks import (
    Mixture,
    linear_layers,
    mlp,
)

NAME = "centroids"
_WIDTHS = (20, 24, 24, 4)
_NOISES = (0.02, 0.1, 0.3, 1.0)
_WEIGHT_DECAYS = (1e-3, 1e-2)
_ERROR, _RANK_ERROR, _SPREAD = range(3)
_NUM_STARTS = 2


@final
@dataclass(frozen=True)
class CentroidSize:
    """How much is minimised.

    Attributes:
        num_draws: R mixtures and networks.
    """

    num_draws: int


def part(size: CentroidSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is minimised.

    Returns:
        The part.
    """
    mixture = Mixture()

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(mixture, size, seed, tick)

    return question_part(
        f"stationary-{NAME}",
        questions(mixture, size),
        record,
        settings={
            "mixture": asdict(mixture),
            "size": asdict(size),
            "widths": _WIDTHS,
            "noises": _NOISES,
            "weight_decays": _WEIGHT_DECAYS,
            "num_starts": _NUM_STARTS,
            "rtol": RTOL,
        },
        num_steps=size.num_draws * len(_NOISES),
    )


def measure(mixture: Mixture, size: CentroidSize, seed: int, tick: Tick) -> np.ndarray:
    """Minimise on centroids, then from there on all samples.

    Args:
        mixture: Law of the data.
        size: How much.
        seed: Base seed.
        tick: Called after every draw and noise.

    Returns:
        (R, S, D, 3): relative error of the singular values of all layers, largest
        error of a rank, and the spread over starts of the centroids' singular values,
        relative as the error.
    """
    found = np.empty((size.num_draws, len(_NOISES), len(_WEIGHT_DECAYS), 3))
    for r, s in np.ndindex(*found.shape[:2]):
        x, labels = mixture.sample(_NOISES[s], derive_seed(seed, KEY, NAME, r))
        start = mlp(_WIDTHS, derive_generator(seed, KEY, NAME, r))
        for d, weight_decay in enumerate(_WEIGHT_DECAYS):
            found[r, s, d] = _compared(start, x, labels, weight_decay)
        tick()
    return found


def _compared(
    start: nn.Module, x: Tensor, labels: Tensor, weight_decay: float
) -> tuple[float, float, float]:
    minima = centroid_minima(
        start,
        centroids(start, [(x, labels)]),
        weight_decay=weight_decay,
        seeds=_NUM_STARTS,
        decay_biases=True,
        tolerance=TOLERANCE,
    )
    models = [found.minimum.model for found in minima]
    full = best_minimum(models[:1], x, labels, weight_decay=weight_decay).model
    forecast, *others = [_singular_values(model) for model in models]
    truth = _singular_values(full)
    size = float(torch.cat(truth).norm())
    ranks = [
        abs(int((a > RTOL * a[0]).sum()) - int((b > RTOL * b[0]).sum()))
        for a, b in zip(forecast, truth, strict=True)
    ]
    spread = [float((torch.cat(forecast) - torch.cat(x)).norm()) for x in others]
    error = float((torch.cat(forecast) - torch.cat(truth)).norm())
    return error / size, float(max(ranks)), max(spread) / size


def _singular_values(model: nn.Module) -> list[Tensor]:
    layers = linear_layers(model).values()
    return [torch.linalg.svdvals(layer.weight.detach()) for layer in layers]


def questions(mixture: Mixture, size: CentroidSize) -> list[Question]:
    """Return what is asked.

    Args:
        mixture: Law of the data.
        size: How much is minimised.

    Returns:
        The questions; what they read is (R, S, D, 3).
    """
    protocol = (
        f"{mixture.text()}, noise {listed(_NOISES)}, {size.num_draws} draws; tanh "
        f"network of widths {listed(_WIDTHS, '-')}, cross-entropy, weights and biases "
        f"decayed by {listed(_WEIGHT_DECAYS)}; minimum on the centroids, and the one "
        "on all samples that is reached from it; singular values of all layers as one "
        "vector"
    )
    source = (
        "that the spectrum can be forecast before training is the abstract's; the "
        "forecast from centroids, and its accuracy, are ours"
    )
    errors = Axes("noise", "relative error", "relative_forecast_error", "log", "log")
    return [
        Question(
            claim(
                f"{NAME}.accurate-where-tight",
                "Where clusters are tight (noise 0.02) the centroids forecast the "
                "singular values of all layers to 1 %.",
                protocol=protocol,
                quantity="relative_forecast_error",
                relation="at_most",
                expected=0.01,
                source=source,
                version="v2",
            ),
            lambda y: y[:, 0, :, _ERROR].max(1),
            errors,
            _lines(_ERROR),
        ),
        Question(
            claim(
                f"{NAME}.error-grows-with-noise",
                "The error of the forecast grows with the noise: log of the error, "
                "mean over the weight decays.",
                protocol=protocol,
                quantity="log10_relative_forecast_error",
                relation="increasing",
                source=source,
            ),
            lambda y: np.log10(y[..., _ERROR]).mean(2),
            errors,
            _lines(_ERROR),
        ),
        Question(
            claim(
                f"{NAME}.rank-exact-where-tight",
                "Up to noise 0.1 the forecast of every layer's rank is exact.",
                protocol=protocol,
                quantity="largest_error_of_a_rank",
                relation="at_most",
                expected=0.0,
                source=source,
            ),
            lambda y: y[:, :2, :, _RANK_ERROR].max((1, 2)),
            Axes("noise", "error of the rank", "largest_error_of_a_rank", "log"),
            _lines(_RANK_ERROR),
        ),
        Question(
            claim(
                f"{NAME}.rank-fails-where-noisy",
                "At noise 1 the forecast of the rank fails: it is off by at least 5 "
                "in some layer.",
                protocol=protocol,
                quantity="largest_error_of_a_rank",
                relation="at_least",
                expected=5.0,
                source=source,
            ),
            lambda y: y[:, 3, :, _RANK_ERROR].min(1),
            Axes("noise", "error of the rank", "largest_error_of_a_rank", "log"),
            _lines(_RANK_ERROR),
        ),
        Question(
            claim(
                f"{NAME}.basins-differ",
                "At noise 0.02 independent starts on the centroids differ by more "
                "than the forecast errs in its own basin: log10 of the ratio.",
                protocol=f"{protocol}; one other start",
                quantity="log10_spread_over_error",
                relation="at_least",
                expected=0.0,
                source=source,
            ),
            lambda y: np.log10(y[:, 0, :, _SPREAD] / y[:, 0, :, _ERROR]).mean(1),
            Axes("noise", "spread over starts", "relative_spread", "log", "log"),
            _lines(_SPREAD),
        ),
    ]


def _lines(quantity: int) -> tuple[Line, ...]:
    return tuple(
        Line(f"weight decay {weight_decay:g}", _NOISES, _column(d, quantity), None)
        for d, weight_decay in enumerate(_WEIGHT_DECAYS)
    )


def _column(weight_decay: int, quantity: int) -> Estimates:
    return lambda y: np.asarray(y[:, :, weight_decay, quantity])
