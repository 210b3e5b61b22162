"""How the claims on signals are stated; tolerances were fixed before the full run.

Ratios to a prediction may be off by 0.1, where the rival law is off by more: with the
stable rank in place of the participation ratio, or without the correction named in the
statement. Numbers near 0 have a tolerance of their own, in their unit.
"""

from __future__ import annotations

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.georgiev2021stable.claims import claim_key

TOLERANCE = 0.1
DERIVED = (
    "derived, as in the module georgiev2021stable.signal.laws; proved in "
    "tests/experiments/georgiev2021stable_signal"
)


def ours(
    name: str,
    data: str,
    statement: str,
    *,
    protocol: str,
    quantity: str,
    expected: float | None = 1.0,
    tolerance: float = TOLERANCE,
    relation: Relation = "equals",
) -> Claim:
    """Return a claim that is derived here and tested here.

    Args:
        name: Dotted, within the paper.
        data: Name of the inputs' data set; ``digits`` adds no suffix.
        statement: The sentence.
        protocol: What is measured, on what, how often.
        quantity: Name of the measured number.
        expected: The value or limit; None for a trend.
        tolerance: In the units of the quantity.
        relation: Between measurement and expectation.

    Returns:
        The claim.
    """
    return Claim(
        key=claim_key(name, data),
        statement=statement,
        whose="ours",
        protocol=protocol,
        quantity=quantity,
        relation=relation,
        expected=expected,
        tolerance=tolerance,
        source=DERIVED,
    )
