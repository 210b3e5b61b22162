"""How the claims are stated: whose they are, and where they come from.

Relation and tolerance of every claim were fixed before the run on base seed 0. Pilots
ran on other base seeds: 1 to 3 for the stationary points, where protocols and limits
of the toy table, descent, collapsed features, deep linear networks, residual networks
and variability were revised after them, and 1000 for sweeps and removal, whose designs
and limits were chosen in exploratory rounds on it, before base seed 0 was looked at.
"""

from __future__ import annotations

from typing import Literal

from spectrank.experiments.claims import Claim, IntervalKind, Relation, Statistic

KEY = "zangrando2024neural"
OURS = "ours"
OF_THE_ABSTRACT = "claim of the abstract; protocol ours"

Version = Literal["v1", "v2", "v3"]

_TITLES = {
    "v1": "Neural Rank Collapse: Weight Decay and Small Within-Class Variability Yield "
    "Low-Rank Bias, arXiv:2402.03991v1 (2024)",
    "v2": "Provable Emergence of Deep Neural Collapse and Low-Rank Bias in "
    "L2-Regularized Nonlinear Networks, arXiv:2402.03991v2 (2025)",
    "v3": "Provable Emergence of Deep Neural Collapse and Low-Rank Bias in "
    "L2-Regularized Nonlinear Networks, arXiv:2402.03991v3 (2026)",
}
_AUTHORS = "Zangrando, Deidda, Brugiapaglia, Guglielmi & Tudisco"


def abstract(version: Version) -> str:
    """Return the source of a claim of an abstract.

    Args:
        version: Of the paper.

    Returns:
        Authors, title, identifier.
    """
    return f"{_AUTHORS}, {_TITLES[version]}, abstract"


def claim(
    name: str,
    statement: str,
    *,
    protocol: str,
    quantity: str,
    relation: Relation,
    source: str,
    expected: float | None = None,
    tolerance: float = 0.0,
    data: str = "",
    version: Version | None = None,
    interval: IntervalKind = "student",
    statistic: Statistic = "mean",
) -> Claim:
    """Return a claim of this paper's folder.

    Args:
        name: Dotted, within the paper.
        statement: The sentence.
        protocol: What is measured, on what, how often.
        quantity: Name of the measured number.
        relation: Between measurement and expectation.
        source: Where it comes from: "derived", with the module whose tests prove it.
            A claim of an abstract has that for its source as well.
        expected: The value or limit; None for a trend.
        tolerance: In the units of the quantity.
        data: Name of the data set, where the claim is made on several; ``digits``
            adds no suffix to the key.
        version: Whose abstract makes the claim; None where it is ours.
        interval: Of the verdict.
        statistic: Of the verdict.

    Returns:
        The claim.
    """
    suffix = f".{data}" if data and data != "digits" else ""
    return Claim(
        key=f"{KEY}.{name}{suffix}",
        statement=statement,
        whose=OURS if version is None else OF_THE_ABSTRACT,
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        source=source if version is None else f"{abstract(version)}; {source}",
        expected=expected,
        tolerance=tolerance,
        interval=interval,
        statistic=statistic,
    )
