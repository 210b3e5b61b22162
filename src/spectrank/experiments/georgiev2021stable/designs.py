"""Experiments at one depth: one layer, all layers, spectra, Frobenius norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable import claims as c
from spectrank.experiments.georgiev2021stable.estimates import (
    intercept_shares,
    log_means,
    slopes,
)
from spectrank.experiments.georgiev2021stable.figures import axes, line, listed
from spectrank.experiments.georgiev2021stable.networks import (
    Point,
    spectral_mean_signal,
)
from spectrank.experiments.georgiev2021stable.protocol import (
    Answer,
    Design,
    Inputs,
    Size,
)
from spectrank.experiments.verdicts import Row, judge
from spectrank.random_nets import RandomMLP

_HIDDEN = (48, 80, 40)
_SIGMAS = (2.0, 1.5, 2.5)
_NUM_LAYERS = len(_HIDDEN)

_ONE_RANKS = (1.5, 2.4, 3.8, 6.0)
_OTHER_RANK = 4.0
_ALL_RANKS = (2.0, 2.9, 4.1, 6.0)
_SPECTRA = ("flat", "spike", "mp-spike", "slice")
_SPECTRA_RANKS = (5.0, 6.0, 4.0)


def one_layer(inputs: Inputs, size: Size) -> Design:
    """Vary the stable rank of one layer, each layer in turn.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, spectrum mp-spike, spectral norms "
        f"{listed(_SIGMAS)}; stable rank {listed(_ONE_RANKS)} in one layer and "
        f"{_OTHER_RANK:g} in the others; {size.text(inputs)}"
    )
    linear = [
        c.one_layer(layer + 1, inputs.data, protocol) for layer in range(_NUM_LAYERS)
    ]
    offset = c.no_offset(inputs.data, protocol)
    ranks = [_ranks(layer, r) for layer in range(_NUM_LAYERS) for r in _ONE_RANKS]
    figures: dict[str, Mapping[str, str]] = {}
    for claim in linear:
        figures |= axes(claim, "stable rank of the layer")
    figures |= axes(
        offset,
        "stable rank of the layer",
        y="mean signal / its predicted value at stable rank 1",
        x_scale="linear",
        y_scale="linear",
    )
    return Design(
        name="one-layer",
        inputs=inputs,
        size=size,
        points=tuple(_spectral_point(widths, r) for r in ranks),
        claims=(*linear, offset),
        answer=_one_layer_answer(linear, offset, widths),
        figures=figures,
    )


def _one_layer_answer(
    linear: Sequence[Claim], offset: Claim, widths: Sequence[int]
) -> Answer:
    x = np.array(_ONE_RANKS)

    def answer(signals: np.ndarray, seed: int) -> list[Row]:
        rows: list[Row] = []
        shares = []
        by_layer = np.split(signals, _NUM_LAYERS, axis=1)
        for layer, (claim, found) in enumerate(zip(linear, by_layer, strict=True)):
            series = f"layer {layer + 1}"
            expected = [
                spectral_mean_signal(widths, _SIGMAS, _ranks(layer, r)) for r in x
            ]
            rows.append(judge(claim, slopes(np.log(x), log_means(found))))
            rows += line(claim, series, x, found, expected, seed)
            shares.append(intercept_shares(x, found.mean(-1)))
            # One scale for all layers: the signal per unit of stable rank.
            rows += line(offset, series, x, found * x[0] / expected[0], x, seed)
        return [*rows, judge(offset, np.mean(shares, axis=0))]

    return answer


def _ranks(layer: int, rank: float) -> tuple[float, ...]:
    return tuple(rank if k == layer else _OTHER_RANK for k in range(_NUM_LAYERS))


def all_layers(inputs: Inputs, size: Size) -> Design:
    """Vary one stable rank in all layers at once.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    claim = c.all_layers(
        _NUM_LAYERS,
        inputs.data,
        f"ReLU networks {listed(widths, '-')}, spectrum mp-spike, spectral norms "
        f"{listed(_SIGMAS)}; stable rank {listed(_ALL_RANKS)} in all layers; "
        f"{size.text(inputs)}",
    )
    ranks = [(rank,) * _NUM_LAYERS for rank in _ALL_RANKS]
    expected = [spectral_mean_signal(widths, _SIGMAS, r) for r in ranks]
    points = tuple(_spectral_point(widths, r) for r in ranks)
    return _power_law("all-layers", inputs, size, claim, points, expected)


def frobenius(inputs: Inputs, size: Size) -> Design:
    """Vary one stable rank in all layers, the Frobenius norms held fixed.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    claim = c.frobenius(
        _NUM_LAYERS,
        inputs.data,
        f"ReLU networks {listed(widths, '-')}, spectrum mp-spike, ||W||_F^2 = 2 m; "
        f"stable rank {listed(_ALL_RANKS)} in all layers; {size.text(inputs)}",
    )
    points = tuple(
        Point(
            f"frobenius {rank:g}",
            RandomMLP(widths, stable_rank=(rank,) * _NUM_LAYERS, norm="frobenius"),
        )
        for rank in _ALL_RANKS
    )
    # ||W_l||_F^2 = 2 n_l: each layer multiplies the mean by n_l / n_{l-1}.
    expected = [widths[-1] / widths[0]] * len(points)
    return _power_law("frobenius", inputs, size, claim, points, expected)


def spectra(inputs: Inputs, size: Size) -> Design:
    """Compare the mean signal with its exact value for several spectra.

    Args:
        inputs: What the networks see.
        size: How much is drawn.

    Returns:
        The design.
    """
    widths = (inputs.dimension, *_HIDDEN)
    protocol = (
        f"ReLU networks {listed(widths, '-')}, stable ranks {listed(_SPECTRA_RANKS)}, "
        f"spectral norms {listed(_SIGMAS)}; {size.text(inputs)}"
    )
    claims = tuple(c.spectrum(name, inputs.data, protocol) for name in _SPECTRA)
    expected = spectral_mean_signal(widths, _SIGMAS, _SPECTRA_RANKS)

    def answer(signals: np.ndarray, seed: int) -> list[Row]:
        del seed
        ratios = (signals.mean(-1) / expected).T
        return [
            judge(claim, ratio) for claim, ratio in zip(claims, ratios, strict=True)
        ]

    return Design(
        name="spectra",
        inputs=inputs,
        size=size,
        points=tuple(
            _spectral_point(widths, _SPECTRA_RANKS, spectrum=name) for name in _SPECTRA
        ),
        claims=claims,
        answer=answer,
        figures={},
    )


def _power_law(
    name: str,
    inputs: Inputs,
    size: Size,
    claim: Claim,
    points: tuple[Point, ...],
    expected: Sequence[float],
) -> Design:
    """A design whose one claim is on the log-log slope in a common stable rank."""
    x = np.array(_ALL_RANKS)

    def answer(signals: np.ndarray, seed: int) -> list[Row]:
        return [
            judge(claim, slopes(np.log(x), log_means(signals))),
            *line(claim, "all layers", x, signals, expected, seed),
        ]

    figures = axes(claim, "stable rank of all layers")
    return Design(name, inputs, size, points, (claim,), answer, figures)


def _spectral_point(
    widths: tuple[int, ...], ranks: Sequence[float], *, spectrum: str = "mp-spike"
) -> Point:
    return Point(
        f"{spectrum} {listed(ranks)}",
        RandomMLP(
            widths,
            stable_rank=tuple(ranks),
            spectrum=spectrum,
            norm="spectral",
            sigma=_SIGMAS,
        ),
    )
