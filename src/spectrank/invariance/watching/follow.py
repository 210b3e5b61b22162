r"""Exact predictions of laws from step to step, sample path by sample path.

With H the law whose parts are divided by the ratios of the learning rates, B its polar
form, a = 1 - e where e is rate times decay, g~ the gradient with coupled decay added,
and B(w, eta g) = 0 because the law holds:

    plain       H(w') = a^2 H(w) + H(eta g)
    momentum    H(w') = a^2 H(w) - 2 a C + H(eta v),        C = B(w, eta v)
    Nesterov    H(w') = H(w) - 2 (S + beta C) + H(eta d),   d = g~ + beta v
    with        C_k = beta (a C_{k-1} - H(eta v_{k-1})) + (1 - tau) S,  S = e H(w)

where a is 1 in the last two lines under coupled decay, S is 0 under decoupled decay,
and under Nesterov B(eta d, eta v) takes the place of H(eta v) in C. A linear law moves
by -C, not by -2 C, and has no second-order term. Parameters whose e is another one add
driven terms, read off the weights at each step.
Source (derived): tests/invariance/watching/test_watch_identities.py, torch.optim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.invariance.laws import Law
from spectrank.invariance.watching.rules import Rule
from spectrank.invariance.watching.sums import COARSE, Parts, num_entries

# Rounding of sums of float64 numbers, relative to the sum of their sizes.
_SUM = 64 * 2.0**-53
# Rounding of a gradient, in units of the precision, relative to its norm: sums over
# a batch that cancel lose more than one unit.
GRADIENT_ROUNDINGS = 2.0**10
# In half precision a thousand units are more than any step moves to first order, and a
# verdict from them would say nothing. Measured under autocast: half a unit.
_HALF_ROUNDINGS = 4.0
_HALF = 2.0**-12


@final
@dataclass(frozen=True, eq=False)
class Moved:
    """What one step did, in the parts of one family.

    Attributes:
        quadratic: H at the displacement without decay: eta g, eta v, eta d.
        sizes: Parts of the size law there.
        looked: B(eta d, eta v) under Nesterov; zero without.
        before: Parts of h at the weights before the step, of driven parameters.
        crossed: Parts of B(w, eta g) there, of driven parameters, without momentum.
        started: Whether the momentum buffers were made in this step.
        stood: Parameters without a gradient; decay does not reach them either.
    """

    quadratic: Tensor
    sizes: Parts
    looked: Tensor
    before: Parts
    crossed: Parts
    started: bool
    stood: frozenset[str]


@final
class Chain:
    """Prediction of a family from some moment on.

    Args:
        law: The family.
        value: H at that moment.
        carried: B(w, eta v) with the buffer v as it is then; zero without one.
    """

    def __init__(self, law: Law, value: Tensor, carried: Tensor) -> None:
        self._linear = law.form == "linear"
        self.predicted = value.clone()
        self.carried = carried.clone()

    def advance(self, rule: Rule, last_rate: float, moved: Moved) -> None:
        """Predict the value after a step.

        Args:
            rule: Of the step.
            last_rate: Reference rate of the step before.
            moved: What the step did.
        """
        if rule.momentum and rule.prediction == "gradient":
            self._with_momentum(rule, last_rate, moved)
        else:
            self._plain(rule, moved)

    def _plain(self, rule: Rule, moved: Moved) -> None:
        power = 1 if self._linear else 2
        a = 1.0 - rule.decay
        after = a**power * self.predicted
        for name in {*rule.driven, *moved.stood}:
            a_p = 1.0 if name in moved.stood else 1.0 - rule.decays[name]
            weight = 1.0 / rule.ratios[name]
            after = after + weight * (a_p**power - a**power) * moved.before[name]
            if name in moved.crossed and not self._linear:
                after = after - 2.0 * weight * (a_p - a) * moved.crossed[name]
        if not self._linear and rule.prediction == "gradient":
            after = after + moved.quadratic
        self.predicted = after

    def _with_momentum(self, rule: Rule, last_rate: float, moved: Moved) -> None:
        zero = torch.zeros_like(self.predicted)
        a = 1.0 - rule.decay if rule.decoupled else 1.0
        decayed = zero if rule.decoupled else self._decayed(rule, moved)
        fresh = 1.0 if moved.started else 1.0 - rule.dampening
        ratio = rule.reference / last_rate if last_rate else 1.0
        inner = rule.momentum * ratio * self.carried + fresh * decayed
        along = decayed + rule.momentum * inner if rule.nesterov else inner
        if self._linear:
            self.predicted = a * self.predicted - along
            self.carried = inner
            return
        self.predicted = a**2 * self.predicted - 2.0 * a * along + moved.quadratic
        self.carried = a * inner - (moved.looked if rule.nesterov else moved.quadratic)

    def _decayed(self, rule: Rule, moved: Moved) -> Tensor:
        total = rule.decay * self.predicted
        for name in {*rule.driven, *moved.stood}:
            decay = 0.0 if name in moved.stood else rule.decays[name]
            share = (decay - rule.decay) / rule.ratios[name]
            total = total + share * moved.before[name]
        return total


@final
class Rounding:
    """How far rounding may have moved a family, step by step.

    Args:
        law: The family.
        weight_unit: Unit roundoff of the weights.
        gradient_unit: Unit roundoff in which gradients are computed.
        inexact: Relative violation allowed to a law that holds for eps = 0 only.
    """

    def __init__(
        self, law: Law, weight_unit: float, gradient_unit: float, inexact: float
    ) -> None:
        self._linear = law.form == "linear"
        self._entries = num_entries(law) if self._linear else None
        self._unit = weight_unit + 2.0**-53
        rounds = GRADIENT_ROUNDINGS if gradient_unit < _HALF else _HALF_ROUNDINGS
        slack = 0.0 if law.exact else inexact
        self.relative = rounds * gradient_unit + slack
        # |B(w, g)| is at most the product of both sizes.
        self.largest = max(
            min(GRADIENT_ROUNDINGS * gradient_unit + slack, 1.0), self.relative
        )
        # Sums of float32 squares have an error of their own.
        self._coarse = COARSE if weight_unit > 2.0**-53 else 0.0
        self._steps = 0
        self._travel: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, sizes: Tensor, momentum: float) -> None:
        """Count a step.

        Args:
            sizes: Of the displacement, in the shape of the law.
            momentum: An error of C lives for 1 / (1 - momentum) steps.
        """
        self._steps += 1
        self._travel = self._travel + sizes.sqrt()
        if self._coarse:
            lasting = 2.0 / max(1.0 - momentum, 1e-3)
            self._squares = self._squares + sizes * lasting

    def take(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        r"""Tolerance since the last call, and start again.

        4 u k A + 2 rel sqrt(A) sum sqrt(A_step), with A the size of the weights, u
        their unit roundoff and k the number of steps, and 2^-18 sum A_step where
        squares are float32; of a linear law half of it with sqrt(N A) for A, N the
        number of its entries.

        Args:
            sizes: Of the weights, in the shape of the law.

        Returns:
            Tolerance, in the shape of the law, and what gradients in half precision
            may add where sums over a batch cancel; the same in others.
        """
        root = sizes.sqrt()
        if self._entries is not None:
            root = self._entries.to(root.device).sqrt()
            other = 2.0 * self._unit * self._steps * root * sizes.sqrt()
            other = other + _SUM * root * sizes.sqrt()
            steps = root * self._travel
        else:
            other = 4.0 * self._unit * self._steps * sizes
            other = other + _SUM * sizes + self._coarse * self._squares
            steps = 2.0 * root * self._travel
        self._steps, self._travel, self._squares = 0, 0.0, 0.0
        allowed = other + self.relative * steps
        same = self.largest == self.relative
        return allowed, allowed if same else other + self.largest * steps


def weighted(parts: Parts, rule: Rule, like: Tensor) -> Tensor:
    """Sum of parts, each divided by the ratio of its rate.

    Args:
        parts: Parameter to its part.
        rule: With the ratios.
        like: Of the shape of the sum.

    Returns:
        The sum; zero where there are none.
    """
    total: Tensor | None = None
    for name, part in parts.items():
        ratio = rule.ratios[name]
        share = part if ratio == 1.0 else part / ratio
        total = share if total is None else total + share
    return torch.zeros_like(like) if total is None else total


def sized(parts: Parts, rule: Rule, law: Law, like: Tensor) -> Tensor:
    """Size in the shape of the law, such that B(x, y)^2 <= size(x) size(y).

    Args:
        parts: Parts of the size law, (n,).
        rule: With the ratios.
        law: The family.
        like: A tensor in the shape of the law.

    Returns:
        Weighted sum; of an entry (u, v) of a matrix the larger of both rows.
    """
    rows = weighted(parts, rule, like if like.ndim == 1 else like[0])
    if law.form != "gram":
        return rows
    return torch.maximum(rows[:, None], rows[None, :])


def unit_roundoff(dtype: torch.dtype) -> float:
    """Largest relative error of one rounding.

    Args:
        dtype: A floating-point one.

    Returns:
        Half of the machine epsilon.
    """
    return math.ldexp(torch.finfo(dtype).eps, -1)
