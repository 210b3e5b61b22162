"""How the claims are stated: whose they are, and where they come from.

The paper has no experiments: every network, data set, protocol and number here is
ours. Relation and tolerance of every claim were fixed before the run on base seed 0;
pilots ran on base seed 1000.
"""

from __future__ import annotations

from spectrank.experiments.claims import Claim, IntervalKind, Relation, Statistic

KEY = "le2022training"
OURS = "ours"
OF_THE_PAPER = "claim of the paper; protocol ours"
_PAPER = (
    "Le & Jegelka, Training invariances and the low-rank phenomenon: beyond linear "
    "networks, ICLR 2022, arXiv:2201.11968"
)


def claim(
    name: str,
    statement: str,
    *,
    protocol: str,
    quantity: str,
    relation: Relation,
    source: str = "",
    expected: float | None = None,
    tolerance: float = 0.0,
    place: str = "",
    data: str = "",
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
        source: Where it comes from, where it is ours or sharpened by us.
        expected: The value or limit; None for a trend.
        tolerance: In the units of the quantity.
        place: Where the paper states it, such as ``Theorem 1``; empty where it is
            ours.
        data: Name of the data set, where the claim is made on several; ``digits``
            adds no suffix to the key.
        interval: Of the verdict.
        statistic: Of the verdict.

    Returns:
        The claim.
    """
    suffix = f".{data}" if data and data != "digits" else ""
    sources = [f"{_PAPER}, {place}"] if place else []
    return Claim(
        key=f"{KEY}.{name}{suffix}",
        statement=statement,
        whose=OF_THE_PAPER if place else OURS,
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        source="; ".join([*sources, *([source] if source else [])]),
        expected=expected,
        tolerance=tolerance,
        interval=interval,
        statistic=statistic,
    )
