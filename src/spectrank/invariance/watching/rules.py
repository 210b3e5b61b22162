r"""What an optimizer does to the parameters of one family of laws.

With rates eta_p that differ between parameters the conserved form is the one in which
the part h_p of each parameter is divided by eta_p; ratios eta_p / eta_ref are used, so
that it stays one form under a schedule.
Source (derived): tests/invariance/watching/test_watch_identities.py, torch.optim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from spectrank.invariance.laws import GramTerm, Law
from spectrank.model.optimizer import ParameterSettings

Prediction = Literal["gradient", "alike", "none"]
DecayForm = Literal["coupled", "decoupled"]

# Elementwise functions of the history of a gradient: equal gradients, equal steps.
_ELEMENTWISE = frozenset(
    {"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad"}
    | {"Adadelta", "Rprop"}
)
_RATIO_RTOL = 1e-9


@final
@dataclass(frozen=True)
class Rule:
    """How one step moves a family of laws.

    Attributes:
        prediction: ``gradient``: the step is a multiple of (averaged) gradients;
            ``alike``: both parameters of each law take equal steps; ``none``.
        reason: Why there is no prediction; None where there is one.
        rates: Parameter to its learning rate.
        ratios: Parameter to its rate over that of the first one.
        decays: Parameter to rate times decay coefficient.
        decay: The one of most entries; the others enter as driven terms.
        decoupled: Decay multiplies the weight beside the step.
        momentum: Of the buffer.
        dampening: Of the buffer.
        nesterov: Whether the step looks ahead.
        sign: -1 where the objective is ascended.
    """

    prediction: Prediction
    reason: str | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    decays: Mapping[str, float] = field(default_factory=dict)
    decay: float = 0.0
    decoupled: bool = False
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    sign: float = 1.0

    @property
    def still(self) -> bool:
        """Whether every rate is zero: the step moves nothing."""
        return not any(self.rates.values())

    @property
    def reference(self) -> float:
        """Rate of the first parameter."""
        return next(iter(self.rates.values()), 0.0)

    @property
    def driven(self) -> tuple[str, ...]:
        """Parameters whose decay is not that of the family."""
        return tuple(p for p, e in self.decays.items() if not _close(e, self.decay))


def rule_of(
    law: Law,
    settings: Mapping[str, ParameterSettings],
    *,
    decay: DecayForm = "coupled",
) -> Rule:
    """Rule of the next step for a family of laws.

    Args:
        law: The family.
        settings: Parameter to how it is updated; those of no watched optimizer absent.
        decay: What the decay of an optimizer without running averages of squares means.

    Returns:
        The rule.
    """
    absent = [p for p in law.parameters if p not in settings]
    if absent:
        return _none(f"no watched optimizer holds {absent[0]}")
    own = {p: settings[p] for p in law.parameters}
    for name, its in own.items():
        if not its.known:
            return _none(its.reason or f"the update of {name} is not known")
    if any(its.adaptive for its in own.values()):
        return _adaptive(law, own)
    return _descent(law, own, decay)


def same_ratios(one: Rule, other: Rule) -> bool:
    """Whether two rules conserve the same weighted form.

    Args:
        one: A rule.
        other: Another of the same family.

    Returns:
        Whether their ratios agree to 1e-9.
    """
    return all(_close(r, other.ratios[p]) for p, r in one.ratios.items())


def _descent(law: Law, own: Mapping[str, ParameterSettings], decay: DecayForm) -> Rule:
    first = next(iter(own.values()))
    for what in ("momentum", "dampening", "nesterov", "maximize"):
        kinds = {getattr(its, what) for its in own.values()}
        if len(kinds) > 1:
            return _none(f"{what} differs between its parameters: {sorted(kinds)}")
    rates = {p: float(its.learning_rate or 0.0) for p, its in own.items()}
    if any(rates.values()) and not all(rates.values()):
        fixed = next(p for p, rate in rates.items() if rate == 0.0)
        return _none(f"the learning rate of {fixed} is zero, of others it is not")
    reference = next(iter(rates.values()))
    ratios = {p: rate / reference if reference else 1.0 for p, rate in rates.items()}
    decays = {p: rates[p] * float(its.weight_decay or 0.0) for p, its in own.items()}
    rule = Rule(
        "gradient",
        rates=rates,
        ratios=ratios,
        decays=decays,
        decay=_most_common(law, decays),
        decoupled=decay == "decoupled",
        momentum=float(first.momentum or 0.0),
        dampening=float(first.dampening or 0.0),
        nesterov=bool(first.nesterov),
        sign=-1.0 if first.maximize else 1.0,
    )
    pulled = [o.parameter for o in law.offsets if decays[o.parameter]]
    if pulled:
        return _none(f"decay pulls {pulled[0]} to zero, its law is centred elsewhere")
    if rule.decoupled and rule.momentum and rule.driven:
        return _none("decoupled decay differs between its parameters, under momentum")
    return rule


def _adaptive(law: Law, own: Mapping[str, ParameterSettings]) -> Rule:
    first = next(iter(own.values()))
    reason = f"{first.algorithm} divides each entry of the step by its own history"
    if first.algorithm not in _ELEMENTWISE:
        reason = f"the step of {first.algorithm} is no multiple of the gradient"
    fields = (
        *("algorithm", "learning_rate", "weight_decay", "decay_kind"),
        *("momentum", "betas", "maximize"),
    )
    kinds = {tuple(getattr(its, f) for f in fields) for its in own.values()}
    decayed = first.decay_kind not in {"none", "decoupled"}
    alike = first.algorithm in _ELEMENTWISE and len(kinds) == 1 and not decayed
    if not (alike and law.kind == "equal-gradient" and _entrywise(law)):
        return _none(reason)
    rates = {p: float(its.learning_rate or 0.0) for p, its in own.items()}
    decays = {p: rates[p] * float(its.weight_decay or 0.0) for p, its in own.items()}
    return Rule(
        "alike",
        rates=rates,
        ratios=dict.fromkeys(rates, 1.0),
        decays=decays,
        decay=next(iter(decays.values())),
        decoupled=True,
    )


def _entrywise(law: Law) -> bool:
    """Whether each law is a difference of single entries."""
    total = 0.0
    for term in law.terms:
        if isinstance(term, GramTerm) or term.num_kept != _numel(term.view):
            return False
        total += float(term.coefficients.sum())
    return len(law.terms) == 2 and total == 0.0


def _most_common(law: Law, decays: Mapping[str, float]) -> float:
    """The decay of the most entries: corrections of the others are cheap then."""
    entries: Counter[float] = Counter()
    views = {term.parameter: term.view for term in law.terms}
    for name, decay in decays.items():
        entries[decay] += _numel(views[name])
    return entries.most_common(1)[0][0]


def _numel(view: tuple[int, ...]) -> int:
    total = 1
    for size in view:
        total *= size
    return total


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= _RATIO_RTOL * max(abs(a), abs(b))


def _none(reason: str) -> Rule:
    return Rule("none", reason=reason)
