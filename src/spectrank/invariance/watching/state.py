"""What is kept of one family of laws while it is watched, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.invariance.laws import Law
from spectrank.invariance.watching.follow import (
    Chain,
    Moved,
    Rounding,
    sized,
    weighted,
)
from spectrank.invariance.watching.rules import Rule
from spectrank.invariance.watching.sums import Parts

Verdict = Literal["conserved", "explained", "broken", "not_applicable"]
_HALF_PRECISION = (
    "and gradients in half precision may do that where sums over a batch cancel"
)


@final
@dataclass(frozen=True)
class Break:
    """Where a family first left its prediction.

    Attributes:
        step: At whose end it was seen.
        since: Last step at which it was still right.
        entries: Flat indices of the laws that left it.
        text: What was seen.
        by: ``structure`` where the gradient itself changes the law.
    """

    step: int
    since: int
    entries: tuple[int, ...]
    text: str
    by: Literal["drift", "structure"] = "drift"


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """One family at one step; entries flat, in the shape of the law.

    Attributes:
        step: Number of steps finished.
        value: H.
        drift: H less its start.
        explained: What is predicted of the drift; None without a prediction.
        tolerance: What rounding may add; None without a prediction.
        verdict: Of the family.
        reason: Why.
    """

    step: int
    value: Tensor
    drift: Tensor
    explained: Tensor | None
    tolerance: Tensor | None
    verdict: Verdict
    reason: str | None


@final
@dataclass(eq=False)
class Family:
    """A family of laws that is watched.

    Attributes:
        law: The family.
        rounding: How far rounding may have moved it.
        rule: Of the last step; None before the first.
        lost: Why there is no prediction any more.
        doubt: Why there may have been none since the last evaluation; None.
        moved: Whether a step has moved the weights since the start.
        broken: Where it first left its prediction.
        structure: Largest |B(w, g)| relative to the sizes, at the last look; None.
        structure_step: Of that look.
    """

    law: Law
    rounding: Rounding
    rule: Rule | None = None
    lost: str | None = None
    doubt: str | None = None
    moved: bool = False
    broken: Break | None = None
    structure: float | None = None
    structure_step: int | None = None
    _whole: Chain | None = None
    _local: Chain | None = None
    _start: Tensor | None = None
    _sizes: Tensor | None = None
    _tolerance: Tensor | float = 0.0
    _possible: Tensor | float = 0.0
    _last_rate: float = 0.0
    _since: int = field(default=0)

    def start(self, rule: Rule, parts: Parts, sizes: Parts, step: int) -> None:
        """Take the present value as the one to compare with.

        Args:
            rule: Of the step to come.
            parts: Of the weights.
            sizes: Of the weights.
            step: Number of steps finished.
        """
        like = torch.zeros(self.law.shape, dtype=torch.float64, device=_device(parts))
        value = weighted(parts, rule, like)
        self.rule, self.moved, self._since = rule, False, step
        self._start, self._tolerance, self._possible = value, 0.0, 0.0
        self._sizes = sized(sizes, rule, self.law, like)
        self._whole = Chain(self.law, value, like)
        self._local = Chain(self.law, value, like)
        self.rounding.take(self._sizes)

    def carry(self, rule: Rule, parts: Parts) -> None:
        """Take B(w, eta v) as measured.

        Args:
            rule: Of the step to come.
            parts: Of the polar form of weights and eta v.
        """
        for chain in (self._whole, self._local):
            assert chain is not None
            chain.carried = weighted(parts, rule, chain.predicted)
        self._last_rate = rule.reference

    def advance(self, rule: Rule, moved: Moved, size: Tensor | None) -> None:
        """Predict the value after a step.

        Args:
            rule: Of the step.
            moved: What it did.
            size: Of the displacement where it is not that of the family.
        """
        for chain in (self._whole, self._local):
            assert chain is not None
            chain.advance(rule, self._last_rate, moved)
        assert self._whole is not None
        sizes = sized(moved.sizes, rule, self.law, self._whole.predicted)
        self.rounding.add(sizes if size is None else sizes + size, rule.momentum)
        self._last_rate, self.moved = rule.reference, True

    @property
    def value(self) -> Tensor:
        """The value it started from."""
        assert self._start is not None
        return self._start

    def lose(self, reason: str) -> None:
        """Have no prediction from now on.

        Args:
            reason: Why; the first one is kept.
        """
        self.lost = self.lost or reason

    def evaluate(self, parts: Parts, sizes: Parts, step: int) -> Evaluation:
        """Compare the present value with the prediction.

        Args:
            parts: Of the weights.
            sizes: Of the weights.
            step: Number of steps finished.

        Returns:
            Value, drift and verdict.
        """
        assert self._start is not None
        assert self.rule is not None
        value = weighted(parts, self.rule, self._start)
        drift = (value - self._start).flatten()
        if not bool(torch.isfinite(value).all()):
            nan = "the weights are not finite"
            return Evaluation(
                step, value.flatten(), drift, None, None, "not_applicable", nan
            )
        if self.lost is None:
            self._compare(value, sized(sizes, self.rule, self.law, value), step)
        if self.lost is not None:
            verdict, said = self._unpredicted()
            return Evaluation(step, value.flatten(), drift, None, None, verdict, said)
        assert self._whole is not None
        explained = (self._whole.predicted - self._start).flatten()
        tolerance = torch.as_tensor(self._tolerance).flatten()
        verdict, reason = self._judged(drift, tolerance)
        return Evaluation(
            step, value.flatten(), drift, explained, tolerance, verdict, reason
        )

    def _compare(self, value: Tensor, sizes: Tensor, step: int) -> None:
        assert self._whole is not None
        assert self._local is not None
        assert self._sizes is not None
        allowed, possible = self.rounding.take(torch.maximum(sizes, self._sizes))
        self._tolerance = self._tolerance + allowed
        self._possible = self._possible + possible
        for chain, most, could in (
            (self._local, allowed, possible),
            (self._whole, self._tolerance, self._possible),
        ):
            residual = (value - chain.predicted).abs()
            # Also where a residual is NaN.
            over = ~(residual <= most)
            if self.broken is not None or not bool(over.any()):
                continue
            found = _break(residual, most, over, self._since, step)
            if self.doubt is not None:
                self.lose(self.doubt)
            elif bool((residual <= could).all()):
                self.lose(f"it {found.text}, {_HALF_PRECISION}")
            else:
                self.broken = found
        self._local.predicted = value.clone()
        self._sizes, self._since, self.doubt = sizes, step, None

    @property
    def structure_tolerance(self) -> float:
        """Largest relative |B(w, g)| that rounding may give."""
        return 4.0 * self.rounding.relative

    def look(self, structure: float, step: int) -> None:
        """Take the relative rate of the family under the gradient of a step.

        Args:
            structure: Largest |B(w, g)| relative to the sizes.
            step: Of the gradient.
        """
        self.structure, self.structure_step = structure, step
        if structure <= self.structure_tolerance:
            return
        text = (
            f"the gradient of step {step} changes it to first order: relative rate "
            f"{structure:.1e}, rounding allows {self.structure_tolerance:.1e}"
        )
        # Rates are at most one: in half precision there is no telling.
        if structure <= 1.0 and self.rounding.largest > self.rounding.relative:
            self.lose(f"{text}, {_HALF_PRECISION}")
            return
        if self.law.condition:
            text = f"{text}; it needs: {self.law.condition}"
        if self.broken is None:
            self.broken = Break(step, step - 1, (), text, "structure")
        elif self.broken.by == "drift":
            # No edit did this: the law was not one of these gradients.
            both = f"{self.broken.text}; {text}"
            self.broken = replace(self.broken, text=both, by="structure")

    @property
    def questioned(self) -> bool:
        """Whether it left its prediction and no gradient was looked at since."""
        if self.broken is None or self.broken.by == "structure":
            return False
        return (self.structure_step or 0) <= self.broken.step

    def _unpredicted(self) -> tuple[Verdict, str]:
        assert self.lost is not None
        if self.broken is not None:
            return "broken", self.broken.text
        return "not_applicable", self.lost

    def _judged(self, drift: Tensor, tolerance: Tensor) -> tuple[Verdict, str | None]:
        if self.broken is not None:
            return "broken", self.broken.text
        if bool((drift.abs() <= tolerance).all()):
            return "conserved", None
        return "explained", "by the steps taken, to rounding"


def _break(
    residual: Tensor, most: Tensor | float, over: Tensor, since: int, step: int
) -> Break:
    allowed = torch.as_tensor(most).expand_as(residual)
    worst = int((residual / allowed.clamp_min(1e-300)).argmax())
    entries = tuple(int(i) for i in over.flatten().nonzero().flatten()[:64])
    when = f"in step {step}" if step == since + 1 else f"in steps {since + 1} to {step}"
    text = (
        f"left its prediction {when}: residual {residual.flatten()[worst]:.1e} at "
        f"entry {worst}, rounding allows {allowed.flatten()[worst]:.1e}"
    )
    return Break(step, since, entries, text)


def _device(parts: Parts) -> torch.device:
    return next((part.device for part in parts.values()), torch.device("cpu"))
