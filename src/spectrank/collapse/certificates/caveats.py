"""Whether the hypotheses behind a rank bound are met, caveat by caveat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

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
