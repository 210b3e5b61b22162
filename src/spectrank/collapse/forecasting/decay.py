"""The one decay that a forecast has, from a number or from an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.optim import Optimizer

from spectrank.collapse.statistics import EffectiveDecay, effective_decays
from spectrank.errors import DomainError

_WAY_OUT = "pass a number for the minimum of loss plus (weight_decay/2) ||W||^2"


def forecast_decay(
    weight_decay: float | Optimizer, model: nn.Module, *, decay_biases: bool
) -> tuple[float, bool]:
    """Read the coefficient, and whether parameters of fewer than two axes have it.

    Args:
        weight_decay: A number, or the optimizer that will train the model.
        model: Whose parameters the optimizer holds.
        decay_biases: For a number; an optimizer tells itself.

    Returns:
        The coefficient lambda and ``decay_biases``.

    Raises:
        ArgumentTypeError: Neither a number nor an optimizer.
        DomainError: The optimizer has no single coupled decay of all weights, or of
            all biases that it decays.
    """  # noqa: DOC502 - the first by the function called
    if isinstance(weight_decay, int | float) and not isinstance(weight_decay, bool):
        return weight_decay, decay_biases
    decays = effective_decays(weight_decay, model)
    assert not isinstance(decays, EffectiveDecay)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name in trained:
        _check_coupled(name, decays)
    weights = _single(decays, [n for n, p in trained.items() if p.ndim >= 2])
    small = [n for n, p in trained.items() if p.ndim < 2]
    biases = _single(decays, small) if small else 0.0
    if biases not in {0.0, weights}:
        raise DomainError(
            "a forecast decays biases as weights or not at all, got an optimizer with "
            f"{biases:g} and {weights:g}; {_WAY_OUT}"
        )
    return weights, biases == weights


def _check_coupled(name: str, decays: Mapping[str, EffectiveDecay]) -> None:
    decay = decays.get(name)
    if decay is None:
        raise DomainError(
            f"an optimizer must hold every parameter that is trained, got none of "
            f"{name}; call requires_grad_(False) on it, or {_WAY_OUT}"
        )
    if decay.kind not in {"coupled", "none"}:
        why = decay.reason or f"the decay of {decay.algorithm} is {decay.kind}"
        raise DomainError(
            "a forecast needs decay that is part of the loss, as of SGD and Adam, got "
            f"{name}: {why}; {_WAY_OUT}"
        )


def _single(decays: Mapping[str, EffectiveDecay], names: Iterable[str]) -> float:
    found = {decays[name].coefficient for name in names}
    if len(found) != 1:
        words = ", ".join(f"{x:g}" for x in sorted(found)) or "no weight"
        raise DomainError(
            f"a forecast has one weight decay for all weights, got {words} of the "
            f"optimizer; {_WAY_OUT}"
        )
    return found.pop()
