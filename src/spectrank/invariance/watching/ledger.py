"""The families that are watched, through the opening and closing of each step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from spectrank.invariance.laws import Law, Laws
from spectrank.invariance.watching.follow import Rounding, sized, unit_roundoff
from spectrank.invariance.watching.marks import Marks, held_by
from spectrank.invariance.watching.rules import DecayForm, Rule, rule_of, same_ratios
from spectrank.invariance.watching.state import Evaluation, Family
from spectrank.invariance.watching.steps import Displacement, Training
from spectrank.invariance.watching.sums import Parts, Reader, num_entries
from spectrank.model.optimizer import ParameterSettings


@final
class Ledger:
    """Accounts for every step of every family.

    Args:
        laws: Restricted already.
        training: Their parameters.
        computed_in: Dtype of the gradients where it is not that of the weights.
        inexact: Relative violation allowed to laws that hold for eps = 0 only.
        decay: What the decay of plain optimizers means.
    """

    def __init__(
        self,
        laws: Laws,
        training: Training,
        *,
        computed_in: torch.dtype | None,
        inexact: float,
        decay: DecayForm,
    ) -> None:
        device = next(iter(training.parameters.values())).device
        self._training, self._decay = training, decay
        self._computed_in, self._inexact = computed_in, inexact
        self._laws = laws
        self._reader = Reader(list(laws), device)
        self.families: list[Family] = []
        self._rules: dict[int, Rule] = {}
        self._started: frozenset[int] = frozenset()
        self._settings: dict[str, ParameterSettings] = {}
        self._read: list[Rule] = []
        self._constants = any(law.kind == "constant" for law in laws)
        self._marks: Marks | None = None

    def start(self, step: int) -> None:
        """Compare with the present weights from now on.

        Args:
            step: Number of steps finished.
        """
        self.families = [self._family(law) for law in self._laws]
        now = self._reader.read(self._weights(), points=True)
        settings = self._training.settings()
        for k, family in enumerate(self.families):
            rule = rule_of(family.law, settings, decay=self._decay)
            if rule.reason is not None:
                family.lose(rule.reason)
                rule = _equal(family.law)
            family.start(rule, now.parts[k], now.sizes[k], step)

    def open(self, step: int, *, due: bool, closure: bool) -> None:
        """Read how the step to come will move the weights.

        Args:
            step: Its number.
            due: Whether to test B(w, g) = 0; also where a law has just left its
                prediction.
            closure: Whether gradients are computed inside the step only.
        """
        settings = self._training.settings()
        self._rules = {}
        if settings is not self._settings:
            self._settings = settings
            self._read = [
                rule_of(law, settings, decay=self._decay) for law in self._laws
            ]
        for k, (family, rule) in enumerate(zip(self.families, self._read, strict=True)):
            if family.lost is None and self._training.scaled:
                family.lose("a gradient scaler unscales inside the step")
            if family.lost is None and rule.reason is not None:
                family.lose(f"in step {step}: {rule.reason}")
            if family.lost is None:
                self._rules[k] = rule
        self._settle(step)
        self._take_up()
        if not closure and (due or any(f.questioned for f in self.families)):
            self._test(step)
        if len(self._training.optimizers) > 1:
            self._marks = Marks(self._training.parameters, self._reader.parameters)

    def go_on(self, optimizer: Optimizer, step: int) -> None:
        """Doubt families whose gradients changed between steps of two optimizers.

        They may be of other weights, and what the first step used is gone. Families of
        the second optimizer alone are as right as ever.

        Args:
            optimizer: About to step, not the first one.
            step: Number of the step.
        """
        assert self._marks is not None
        changed, held = self._marks.changed(), held_by(optimizer)
        for family in self.families:
            names = family.law.parameters
            alone = all(id(self._training.parameters[p]) in held for p in names)
            if not alone and changed.intersection(names):
                family.doubt = (
                    f"in step {step} gradients changed between the steps of two "
                    "optimizers: they may be of other weights"
                )

    def close(self, step: int) -> None:
        """Predict what the finished step did.

        Args:
            step: Its number.
        """
        moving = {
            k: (self.families[k], rule)
            for k, rule in self._rules.items()
            if not rule.still and self.families[k].lost is None
        }
        self._drop_unpredictable(moving, step)
        if moving:
            done = Displacement(self._training, self._reader, moving, self._started)
            everything = done.size() if self._constants else 0.0
            for k, (family, rule) in moving.items():
                own = None
                if family.law.kind == "constant":
                    # Its own gradient is nothing but rounding.
                    like = torch.zeros(family.law.shape, dtype=torch.float64)
                    own = like + everything
                family.advance(rule, done.of(k, family, rule), own)
        for k, rule in self._rules.items():
            self.families[k].rule = rule

    def lose(self, reason: str) -> None:
        """Have no prediction from now on.

        Args:
            reason: Why.
        """
        for family in self.families:
            family.lose(reason)

    def evaluate(self, step: int) -> list[Evaluation]:
        """Compare all families with their predictions.

        Args:
            step: Number of steps finished.

        Returns:
            One each.
        """
        now = self._reader.read(self._weights(), points=True)
        return [
            family.evaluate(now.parts[k], now.sizes[k], step)
            for k, family in enumerate(self.families)
        ]

    def _settle(self, step: int) -> None:
        """Take up changed ratios of rates, as long as nothing has moved."""
        changed = []
        for k, rule in self._rules.items():
            family = self.families[k]
            if rule.still:
                continue
            assert family.rule is not None
            if not same_ratios(rule, family.rule):
                changed.append(k)
        late = [k for k in changed if self.families[k].moved]
        for k in late:
            said = "the ratios of the learning rates of its parameters changed"
            self.families[k].lose(f"{said} in step {step}")
            del self._rules[k]
        fresh = [k for k in changed if k not in late]
        if fresh:
            now = self._reader.read(self._weights(), points=True)
            for k in fresh:
                rule = self._rules[k]
                self.families[k].start(rule, now.parts[k], now.sizes[k], step - 1)

    def _take_up(self) -> None:
        """Measure B(w, eta v) where the buffers are older than the account."""
        held = {
            name
            for k, rule in self._rules.items()
            if rule.momentum
            for name in self.families[k].law.parameters
        }
        buffers = self._training.buffers(held) if held else {}
        started, measured = [], []
        for k, rule in self._rules.items():
            family = self.families[k]
            if not rule.momentum or rule.prediction != "gradient":
                continue
            last = family.rule
            if not any(name in buffers for name in family.law.parameters):
                started.append(k)
                continue
            fresh = not family.moved or last is None or last.still
            if not rule.still and (fresh or (last is not None and not last.momentum)):
                measured.append(k)
        self._started = frozenset(started)
        if measured:
            rates = {p: r for k in measured for p, r in self._rules[k].rates.items()}
            weights = self._weights(buffers)
            now = self._reader.read(weights, buffers, points=True)
            for k in measured:
                rule = self._rules[k]
                parts = {p: part * rates[p] for p, part in now.parts[k].items()}
                self.families[k].carry(rule, parts)

    def _drop_unpredictable(
        self, moving: dict[int, tuple[Family, Rule]], step: int
    ) -> None:
        """Lose families of which some buffers moved and others did not."""
        for k, (family, rule) in list(moving.items()):
            if not rule.momentum or rule.prediction != "gradient":
                continue
            names = family.law.parameters
            gradients = self._training.gradients(names)
            buffers = self._training.buffers(names)
            stale = [p for p in names if p in buffers and p not in gradients]
            if stale:
                family.lose(f"{stale[0]} had no gradient in step {step}, but momentum")
                del moving[k]

    def _test(self, step: int) -> None:
        weights = self._weights()
        gradients = self._training.gradients(weights)
        if not gradients:
            return
        # Squares of 1e-200 are zero.
        most = max(float(g.abs().max()) for g in gradients.values()) or 1.0
        scales = dict.fromkeys(gradients, 1.0 / most)
        given = {name: weights[name] for name in gradients}
        crossed = self._reader.read(given, gradients, scales=scales, points=True)
        sizes = self._reader.read(weights, points=True).sizes
        slopes = self._reader.read(gradients, scales=scales, linear=False).sizes
        everything = 0.0
        if self._constants:
            every = self._training.gradients(self._training.parameters)
            everything = sum(
                float((g.double() / most).square().sum()) for g in every.values()
            )
        for k, family in enumerate(self.families):
            if not crossed.parts[k]:
                continue
            rate = _total(crossed.parts[k])
            slope = _relative(family.law, rate, sizes[k], slopes[k], everything)
            family.look(slope, step)

    def _weights(self, names: object = None) -> dict[str, Tensor]:
        wanted = self._reader.parameters
        if names is not None:
            wanted = tuple(name for name in wanted if name in names)  # type: ignore[operator]
        return self._training.weights(wanted)

    def _family(self, law: Law) -> Family:
        dtypes = {self._training.parameters[p].dtype for p in law.parameters}
        weight = max(unit_roundoff(dtype) for dtype in dtypes)
        gradient = weight
        if self._computed_in is not None:
            gradient = max(weight, unit_roundoff(self._computed_in))
        return Family(law, Rounding(law, weight, gradient, self._inexact))


def _equal(law: Law) -> Rule:
    return Rule("none", ratios=dict.fromkeys(law.parameters, 1.0))


def _total(parts: Parts) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _relative(
    law: Law, rate: Tensor, sizes: Parts, slopes: Parts, everything: float
) -> float:
    """Largest |B(w, g)| relative to its bound by the sizes of w and g."""
    equal = _equal(law)
    slope = sized(slopes, equal, law, rate)
    if law.form != "linear":
        size = sized(sizes, equal, law, rate)
    else:
        size = num_entries(law).to(rate.device)
        if law.kind == "constant":
            slope = torch.full_like(slope, everything)
    scale = (size * slope).sqrt()
    # Zero over zero: nothing moves the law at all.
    ratio = torch.where(rate == 0.0, torch.zeros_like(rate), rate.abs() / scale)
    return float(ratio.max())
