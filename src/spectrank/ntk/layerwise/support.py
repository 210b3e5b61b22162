"""Signatures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn


@final
@dataclass(frozen=True)
class Support(Mapping[str, str | None]):
    """Parameter name to the rule that serves it, None where there is none.

    Attributes:
        rules: By name of ``model.named_parameters()``, in its order.
        reasons: Why there is none, by name.
    """

    rules: Mapping[str, str | None]
    reasons: Mapping[str, str]

    def __getitem__(self, name: str) -> str | None:
        return self.rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)


def supported(model: nn.Module, x: Tensor) -> Support:
    """Which parameters have a rule; runs the model on at most 4 of the samples."""
    raise NotImplementedError


def refuse_training(model: nn.Module) -> None:
    """Raise DomainError for BatchNorm or dropout in training mode."""
    raise NotImplementedError
