"""Verdicts: which initialisation a layer is still at, and what explains its rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from spectrank.init.closeness.layer import Layer
from spectrank.init.closeness.nulls import (
    LEAST_EFFECTIVE,
    GaussianNull,
    effective_draws,
    normalised_weights,
    rank_p_value,
    weighted_p_value,
)
from spectrank.init.closeness.references import Reference

# With fewer singular values the two ranks tell no law from another.
_FEWEST_VALUES = 4

Word = Literal["holds", "violated", "inconclusive", "not_applicable"]
State = Literal[
    "initial",
    "orthogonal",
    "flat",
    "spike",
    "unlisted scale",
    "changed",
    "noise",
    "structured",
    "unknown",
]


@final
@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason.

    Attributes:
        verdict: Word of the Table's vocabulary.
        state: What the layer is, in one word or two.
        reason: In plain words.
        p_value: Of the test, or of both tests by Bonferroni; None where none decided.
    """

    verdict: Word
    state: State
    reason: str
    p_value: float | None = None


def judge_initial(
    layer: Layer, null: GaussianNull, known: Sequence[Reference], level: float
) -> Judgement:
    """Tell whether a layer can be told from a fresh one.

    Half of the level goes to the spectrum free of scale, half to the scale.

    Args:
        layer: What was measured.
        null: Gaussian matrices of its shape.
        known: Initialisations.
        level: Probability of a false alarm.

    Returns:
        The verdict.
    """
    exact = _exact_shape(layer)
    if exact is not None:
        return exact
    if layer.size < _FEWEST_VALUES:
        why = (
            "the stable rank of a vector is 1 whatever its entries"
            if layer.size == 1
            else f"{layer.size} singular values do not tell one law from another"
        )
        return Judgement("not_applicable", "unknown", f"cannot tell: {why}")
    draws = np.stack([null.log_stable_rank, null.log_participation_ratio])
    p_value = rank_p_value(draws, layer.statistics())
    if 2.0 * p_value <= level:
        reason = _changed(layer, draws)
        return Judgement("violated", "changed", reason, 2.0 * p_value)
    return _judge_scale(layer, known, level, p_value)


def judge_conditioned(
    layer: Layer,
    null: GaussianNull | None,
    log_weights: np.ndarray | None,
    level: float,
) -> Judgement:
    """Tell whether the stable rank alone explains the rest of the spectrum.

    Args:
        layer: What was measured.
        null: Gaussian matrices with one row and one column less; None for a vector.
        log_weights: Of its draws at this stable rank; None without a rest.
        level: Probability of a false alarm.

    Returns:
        The verdict.
    """
    if null is None or log_weights is None or layer.size < _FEWEST_VALUES:
        why = (
            "fewer than three singular values after the first"
            if layer.size < _FEWEST_VALUES
            else "of rank one, nothing is left to explain"
        )
        return Judgement("not_applicable", "unknown", f"does not apply: {why}")
    num = effective_draws(normalised_weights(log_weights))
    if num < LEAST_EFFECTIVE:
        reason = (
            f"does not apply: at a stable rank of {layer.stable_rank:.4g} there is no "
            "room for noise below the first singular value"
        )
        return Judgement("not_applicable", "unknown", reason)
    return _judge_rest(layer, null, log_weights, level)


def _judge_rest(
    layer: Layer, null: GaussianNull, log_weights: np.ndarray, level: float
) -> Judgement:
    observed = layer.rest_statistics()
    draws = np.stack([null.log_stable_rank, null.log_participation_ratio])
    draws = draws[-len(observed) :]
    weights = normalised_weights(log_weights)
    p_value = weighted_p_value(draws, weights, observed)
    compared = _compared(np.exp(observed), np.exp(draws @ weights))
    num = effective_draws(weights)
    if level < p_value <= 1.0 / (1.0 + num):
        # No draw is as extreme, but they are too few to reach the level.
        reason = f"cannot tell: {num:.0f} draws in effect are too few; {compared}"
        return Judgement("inconclusive", "unknown", reason, p_value)
    if p_value > level:
        reason = f"the rest is noise: {compared}"
        return Judgement("holds", "noise", reason, p_value)
    reason = f"more than its stable rank: after the first singular value {compared}"
    return Judgement("violated", "structured", reason, p_value)


def _compared(found: np.ndarray, expected: np.ndarray) -> str:
    names = ("stable rank", "participation ratio")[-len(found) :]
    return ", ".join(
        f"{name} {x:.4g} (noise {y:.4g})"
        for name, x, y in zip(names, found, expected, strict=True)
    )


def _exact_shape(layer: Layer) -> Judgement | None:
    """Spectra that no random matrix with independent entries has."""
    p, r, ratio = layer.size, layer.stable_rank, layer.participation_ratio
    if p == 1:
        return None
    if p - r <= layer.rounding * p:
        gain = layer.frobenius / math.sqrt(p)
        reason = f"orthogonal, gain {gain:.4g}: all {p} singular values are equal"
        return Judgement("holds", "orthogonal", reason)
    rank = round(r)
    if (
        rank > 1
        and abs(r - rank) <= layer.rounding * r
        and ratio - r <= (2.0 * layer.rounding * r)
    ):
        reason = f"flat: {rank} equal singular values, the other {p - rank} are zero"
        return Judgement("violated", "flat", reason)
    if layer.squares is not None and p > 2:
        second, last = layer.squares[1], layer.squares[-1]
        if second - last <= 2.0 * layer.rounding * second and last > 0.0:
            reason = (
                f"spike: one singular value above {p - 1} equal ones, stable rank "
                f"{r:.4g}"
            )
            return Judgement("violated", "spike", reason)
    return None


def _changed(layer: Layer, draws: np.ndarray) -> str:
    """Say which rank left the Gaussian's range, and by how many deviations."""
    expected, deviation = draws.mean(axis=1), draws.std(axis=1)
    scores = (layer.statistics() - expected) / np.maximum(deviation, 1e-300)
    typical, ratio = np.exp(expected)
    if abs(scores[0]) >= 3.0:
        side = "below" if scores[0] < 0 else "above"
        return (
            f"trained or shaped: stable rank {layer.stable_rank:.4g} is {side} the "
            f"{typical:.4g} of any initialisation with independent entries "
            f"({scores[0]:+.1f} deviations)"
        )
    side = "below" if scores[1] < 0 else "above"
    return (
        f"trained or shaped: participation ratio {layer.participation_ratio:.4g} is "
        f"{side} the {ratio:.4g} of any initialisation with independent entries "
        f"({scores[1]:+.1f} deviations), stable rank {layer.stable_rank:.4g} against "
        f"{typical:.4g}"
    )


def _judge_scale(
    layer: Layer, known: Sequence[Reference], level: float, p_value: float
) -> Judgement:
    scales = [
        (reference, reference.scale_p_value(layer.frobenius, layer.m, layer.n))
        for reference in known
        if reference.law != "orthogonal"
    ]
    matches = [(reference, p) for reference, p in scales if 2.0 * p > level]
    deviation = layer.frobenius / math.sqrt(layer.m * layer.n)
    if not matches:
        return Judgement(
            "inconclusive",
            "unlisted scale",
            f"cannot tell: independent {_entries(layer)} entries of deviation "
            f"{deviation:.4g}, which is that of no listed initialisation; another one, "
            "or one that was rescaled",
            2.0 * max(p for _, p in scales),
        )
    # The spectrum is blind to the law of the entries; their kurtosis is not.
    fitting = [m for m in matches if m[0].law == layer.entries] or matches
    titles = " or ".join(reference.title for reference, _ in fitting)
    reason = f"still at its initialisation: {titles}"
    if fitting[0][0].law != layer.entries:
        reason += (
            f" by spectrum and scale, but the entries (excess kurtosis "
            f"{layer.excess:.2f}) are not {fitting[0][0].law}"
        )
    best = max(p for _, p in fitting)
    both = min(1.0, 2.0 * p_value, 2.0 * best)
    return Judgement("holds", "initial", reason, both)


def _entries(layer: Layer) -> str:
    return {"normal": "normal", "uniform": "uniform", "other": "identically spread"}[
        layer.entries
    ]
