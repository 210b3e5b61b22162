"""Tensors of one step: the weights, and by what each rule displaced them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spectrank.invariance.watching.follow import Moved, weighted
from spectrank.invariance.watching.rules import Rule
from spectrank.invariance.watching.state import Family
from spectrank.invariance.watching.sums import Parts, Reader, Reading
from spectrank.model.optimizer import ParameterSettings, read_optimizer

_NOTHING = Reading((), ())
_KEYS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


@final
class Training:
    """The parameters of a model and what its optimizers hold of them; only read.

    Args:
        model: The module.
        optimizers: Those that train it.
        as_type: As in `read_optimizer`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        as_type: type[Optimizer] | None,
    ) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.optimizers = tuple(optimizers)
        self._model, self._as_type = model, as_type
        self._settings: dict[str, ParameterSettings] = {}
        self._read: tuple[object, ...] | None = None

    def settings(self) -> dict[str, ParameterSettings]:
        """How the next step will update each parameter; the same object if as ever."""
        read = self._fingerprint()
        if read is not None and read == self._read:
            return self._settings
        self._read = read
        found = [
            its
            for optimizer in self.optimizers
            for its in read_optimizer(optimizer, self._model, as_type=self._as_type)
        ]
        known = {its.name: its for its in found if its.name in self.parameters}
        self._settings = {n: self._rounded(n, its) for n, its in known.items()}
        return self._settings

    def _fingerprint(self) -> tuple[object, ...] | None:
        """All that settings depend on; None where the state of an optimizer counts."""
        kinds = {self._as_type or type(optimizer) for optimizer in self.optimizers}
        if kinds != {torch.optim.SGD}:
            return None
        return tuple(
            (len(group["params"]), *(float(group[key]) for key in _KEYS))
            for optimizer in self.optimizers
            for group in optimizer.param_groups
        )

    def _rounded(self, name: str, its: ParameterSettings) -> ParameterSettings:
        """Its rate as ASGD will store it in its first step, a float32 number mostly."""
        if its.algorithm != "ASGD" or self._state(name):
            return its
        double = torch.get_default_dtype() == torch.float64
        dtype = torch.float64 if double else torch.float32
        rate = float(torch.tensor(its.learning_rate, dtype=dtype))
        return replace(its, learning_rate=rate)

    def _state(self, name: str) -> Mapping[str, object]:
        parameter = self.parameters[name]
        states = (o.state.get(parameter) for o in self.optimizers)
        return next((state for state in states if state), {})

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Parameters by name, detached.

        Args:
            names: Which.

        Returns:
            Name to tensor.
        """
        return {name: self.parameters[name].detach() for name in names}

    def gradients(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Gradients by name, of those that have one.

        Args:
            names: Which.

        Returns:
            Name to dense tensor.
        """
        found = {}
        for name in names:
            gradient = self.parameters[name].grad
            if gradient is not None:
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                found[name] = dense.detach()
        return found

    def buffers(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Momentum buffers by name, of those that have one.

        Args:
            names: Which.

        Returns:
            Name to tensor.
        """
        wanted = {id(self.parameters[name]): name for name in names}
        return {
            wanted[id(p)]: state["momentum_buffer"].detach()
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
            if id(p) in wanted and state.get("momentum_buffer") is not None
        }

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler has its optimizer unscale inside the step."""
        return any(getattr(o, "grad_scale", None) is not None for o in self.optimizers)


@final
class Displacement:
    """What a finished step did to the parameters of the families that are predicted.

    Args:
        training: Parameters, gradients and buffers, after the step.
        reader: Of all families.
        families: Family number to the rule of this step, of those predicted.
        started: Families whose momentum buffers were made in this step.
    """

    def __init__(
        self,
        training: Training,
        reader: Reader,
        families: Mapping[int, tuple[Family, Rule]],
        started: frozenset[int],
    ) -> None:
        self._started = started
        rules: dict[str, Rule] = {}
        for family, rule in families.values():
            if rule.prediction == "gradient":
                rules |= dict.fromkeys(family.law.parameters, rule)
        self._predicted = frozenset(rules)
        self._gradients = training.gradients(rules)
        buffers = training.buffers(p for p, r in rules.items() if r.momentum)
        self._moves: dict[str, Tensor] = {}
        self.scales: dict[str, float] = {}
        averages: dict[str, Tensor] = {}
        for name, rule in rules.items():
            gradient = self._gradients.get(name)
            if gradient is None:
                continue
            self.scales[name] = rule.rates[name]
            if not rule.momentum:
                self._moves[name] = gradient
            elif not rule.nesterov:
                self._moves[name] = buffers[name]
            else:
                weight = training.parameters[name].detach()
                averages[name] = buffers[name]
                self._moves[name] = _ahead(weight, gradient, buffers[name], rule, name)
        self._quadratic = reader.read(
            self._moves, scales=self.scales, linear=False, coarse=True
        )
        self._looked = self._look(reader, averages)
        self._drive(training, reader, families, rules)

    def of(self, number: int, family: Family, rule: Rule) -> Moved:
        """What the step did to one family.

        Args:
            number: Of the family.
            family: It.
            rule: Of the step.

        Returns:
            The parts of this family.
        """
        names = family.law.parameters
        still = self._predicted - self._gradients.keys()
        return Moved(
            quadratic=weighted(self._quadratic.parts[number], rule, family.value),
            sizes=self._quadratic.sizes[number],
            looked=weighted(_parts(self._looked, number), rule, family.value),
            before=_parts(self._before, number),
            crossed=_parts(self._crossed, number),
            started=number in self._started,
            stood=frozenset(names) & still,
        )

    def size(self) -> float:
        """Squared norm of the displacement of all parameters that are predicted."""
        return float(
            sum(
                (float(torch.linalg.vector_norm(move)) * self.scales[name]) ** 2
                for name, move in self._moves.items()
            )
        )

    def _look(self, reader: Reader, averages: Mapping[str, Tensor]) -> Reading:
        if not averages:
            return _NOTHING
        ahead = {name: self._moves[name] for name in averages}
        # B(eta d, eta v): one rate goes with each.
        twice = {name: self.scales[name] ** 2 for name in averages}
        return reader.read(ahead, averages, scales=twice, linear=False)

    def _drive(
        self,
        training: Training,
        reader: Reader,
        families: Mapping[int, tuple[Family, Rule]],
        rules: Mapping[str, Rule],
    ) -> None:
        """Read the weights before the step where decay is not that of the family."""
        driven = {
            name
            for family, rule in families.values()
            for name in (*rule.driven, *family.law.parameters)
            if name in rule.driven or (name in rules and name not in self._gradients)
        }
        before: dict[str, Tensor] = {}
        for name in driven:
            after = training.parameters[name].detach().double()
            before[name] = after
            if name in self._moves:
                rule = rules[name]
                move = self._moves[name].double() * (rule.sign * self.scales[name])
                if rule.momentum:
                    move = move * rule.sign  # The buffer has the sign already.
                # w' = a w - eta x; under momentum coupled decay is in the buffer.
                kept = not rule.momentum or rule.decoupled
                before[name] = (after + move) / (1.0 - rule.decays[name] * kept)
        self._before = self._crossed = _NOTHING
        if before:
            self._before = reader.read(before, points=True)
            plain = {
                name: self._gradients[name]
                for name in before
                if name in self._gradients and not rules[name].momentum
            }
            scales = {name: rules[name].sign * self.scales[name] for name in plain}
            weights = {name: before[name] for name in plain}
            self._crossed = reader.read(weights, plain, scales=scales, points=True)


def _ahead(
    weight: Tensor, gradient: Tensor, average: Tensor, rule: Rule, name: str
) -> Tensor:
    """Nesterov's d = g + decay w + beta v, from the weight w' = w - eta d after it."""
    ahead = rule.sign * gradient + rule.momentum * average
    if rule.decoupled or not rule.decays[name]:
        return ahead
    decay = rule.decays[name] / rule.rates[name]
    return (ahead + decay * weight) / (1.0 - rule.decays[name])


def _parts(reading: Reading, number: int) -> Parts:
    return reading.parts[number] if reading.parts else {}
