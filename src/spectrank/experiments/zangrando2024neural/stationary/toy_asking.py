"""What the questions of the table of ranks share: numbers, lines, whose claim.

R  draws    S  noises    D  weight decays    L  layers
"""

from __future__ import annotations

import numpy as np

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.questions import Axes, Estimates, Line, Question
from spectrank.experiments.zangrando2024neural.claims import Version, claim
from spectrank.experiments.zangrando2024neural.stationary.toy import (
    NAME,
    NOISES,
    NOTE,
    NUM_LAYERS,
    WEIGHT_DECAYS,
)

TIGHT, MIDDLE, NOISY = range(len(NOISES))
UP_TO_1E_2 = slice(0, 3)
RANKS = Axes("weight decay", "rank at 1e-2", "numerical_rank", x_scale="log")
EARLIER = "an earlier run of ours on other draws, whose tolerances these are"


def ask(
    name: str,
    statement: str,
    quantity: str,
    relation: Relation,
    expected: float | None,
    estimates: Estimates,
    axes: Axes,
    lines: tuple[Line, ...],
    *,
    protocol: str,
    source: str,
    version: Version | None = None,
) -> Question:
    """Return a question of the table.

    Args:
        name: Of the claim, after that of the table.
        statement: The sentence.
        quantity: Name of the measured number.
        relation: Between measurement and expectation.
        expected: The value or limit; None for a trend.
        estimates: From the table to the answer.
        axes: Of the figure.
        lines: Of the figure.
        protocol: What is measured.
        source: Where the claim comes from.
        version: Whose abstract makes it; None where it is ours.

    Returns:
        The question.
    """
    asked: Claim = claim(
        f"{NAME}.{name}",
        statement,
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        expected=expected,
        source=source,
        version=version,
    )
    return Question(asked, estimates, axes, lines)


def ranks(y: np.ndarray) -> np.ndarray:
    """Numerical ranks.

    Args:
        y: (R, S, D) of dtype ``CELL``.

    Returns:
        (R, S, D, L).
    """
    return np.asarray(y["layers"]["rank"])


def relative(y: np.ndarray) -> np.ndarray:
    """Frobenius distances to rank K over the norms of the layers.

    Args:
        y: (R, S, D) of dtype ``CELL``.

    Returns:
        (R, S, D, L).
    """
    return ratio(y, "distance", "norm")


def ratio(y: np.ndarray, above: str, below: str) -> np.ndarray:
    """One number of the layers over another.

    Args:
        y: (R, S, D) of dtype ``CELL``.
        above: Field of dtype ``LAYER``.
        below: Another.

    Returns:
        (R, S, D, L); 0 where both are, as in a zero network.
    """
    a, b = y["layers"][above], y["layers"][below]
    some = (a != 0.0) | (b != 0.0)
    return np.asarray(np.divide(a, b, out=np.zeros(a.shape), where=some))


def rank_lines(
    layers: range | list[int], noises: tuple[int, ...] = (TIGHT, MIDDLE, NOISY)
) -> tuple[Line, ...]:
    """Our ranks, each beside that of the earlier run as what was expected.

    Args:
        layers: Which.
        noises: Indices of the noises.

    Returns:
        One line for each layer and noise.
    """
    return tuple(
        Line(
            f"W_{layer % NUM_LAYERS + 1}, noise {NOISES[s]:g}",
            WEIGHT_DECAYS,
            _picked(ranks, (slice(None), s, slice(None), layer)),
            [float(row[layer]) for row in NOTE[NOISES[s]]],
        )
        for layer in layers
        for s in noises
    )


def noise_lines(of: Estimates) -> tuple[Line, ...]:
    """One line for each noise.

    Args:
        of: The quantity, to (R, S, D).

    Returns:
        The lines.
    """
    return tuple(
        Line(f"noise {noise:g}", WEIGHT_DECAYS, _picked(of, (slice(None), s)), None)
        for s, noise in enumerate(NOISES)
    )


def _picked(of: Estimates, index: tuple[int | slice, ...]) -> Estimates:
    return lambda y: np.asarray(of(y)[index])
