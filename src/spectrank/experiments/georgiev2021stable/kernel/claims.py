"""How the claims on the kernel are stated; tolerances were fixed before the full run.

Ratios to a prediction may be off by 0.1 to 0.2, where the rival law named in the
statement or in the tests is off by more.
"""

from __future__ import annotations

from dataclasses import replace

from spectrank.experiments.claims import Claim, Relation
from spectrank.experiments.georgiev2021stable.signal.claims import ours as _ours

DERIVED = (
    "derived, as in the module georgiev2021stable.kernel.laws; proved in "
    "tests/experiments/georgiev2021stable_kernel"
)


def ours(
    name: str,
    data: str,
    statement: str,
    *,
    protocol: str,
    quantity: str,
    expected: float | None = 1.0,
    tolerance: float,
    relation: Relation = "equals",
) -> Claim:
    """Return a claim on the tangent kernel that is derived here and tested here.

    Args:
        name: Dotted, after ``kernel.``.
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
    claim = _ours(
        f"kernel.{name}",
        data,
        statement,
        protocol=protocol,
        quantity=quantity,
        expected=expected,
        tolerance=tolerance,
        relation=relation,
    )
    return replace(claim, source=DERIVED)
