"""Whether the hypotheses behind a rank bound are met, caveat by caveat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from spectrank.collapse.certificates.verdicts import SOURCE, Row

Weight = Literal["blocks", "weakens", "note"]


@final
@dataclass(frozen=True)
class Caveat:
    """Something about a layer or its training that a reader of the bound must know.

    Attributes:
        name: Short, such as ``normalisation``.
        weight: ``blocks`` (the theorem says nothing of this weight), ``weakens`` (the
            bound stays true, and is large for this reason) or ``note``.
        reason: In words.
    """

    name: str
    weight: Weight
    reason: str


@final
@dataclass(frozen=True)
class Applicability:
    """What is known of a layer beside its statistics.

    Attributes:
        weight_decay: Coefficient lambda of (lambda / 2) ||W||^2 that acts on the
            weight; 0 without decay.
        caveats: All that concern the layer.
    """

    weight_decay: float
    caveats: tuple[Caveat, ...] = ()

    @property
    def applies(self) -> bool:
        """Whether nothing blocks the theorem."""
        return not any(caveat.weight == "blocks" for caveat in self.caveats)

    @property
    def reason(self) -> str:
        """What blocks the theorem; what weakens it where nothing does; or neither."""
        for weight in ("blocks", "weakens"):
            reasons = [c.reason for c in self.caveats if c.weight == weight]
            if reasons:
                return "; ".join(reasons)
        return "nothing known stands against the hypotheses"


def caveat_row(caveat: Caveat, refused: str | None = None) -> Row:
    """Return a caveat as a check ``applicability``.

    Args:
        caveat: Of the layer.
        refused: Why no bound of any rank applies to the layer; None where some do.

    Returns:
        Verdict ``not_applicable`` for one that blocks, and for every one where the
        layer is refused; else ``vacuous`` for one that weakens, ``holds`` for a note.
    """
    verdicts = {"blocks": "not_applicable", "weakens": "vacuous", "note": "holds"}
    reason, verdict = caveat.reason, verdicts[caveat.weight]
    if refused is not None and caveat.weight != "blocks":
        verdict = "not_applicable"
        reason = f"{reason}; but no bound applies: {refused}"
    return {
        "kind": "check",
        "metric": "applicability",
        "variant": caveat.name,
        "verdict": verdict,
        "status": "ok",
        "reason": reason,
        "source": SOURCE,
    }
