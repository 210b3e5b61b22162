"""What tests of propagation share: rows by keys, small models, sums of squares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spectrank.table import Table

Key = tuple[str, str, str | None]


def by_key(table: Table) -> dict[Key, dict[str, Any]]:
    rows = [r for r in table if r["kind"] == "measurement"]
    found = {(r["subject"], r["metric"], r["variant"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def skips(table: Table) -> dict[Key, str]:
    return {
        (r["subject"], r["metric"], r["variant"]): r["reason"]
        for r in table
        if r["kind"] == "skip"
    }


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    return model.requires_grad_(False)


def perceptron() -> nn.Sequential:
    return randomised(
        nn.Sequential(
            *(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))
        )
    )


def squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


def counts(table: Table, metric: str) -> list[float]:
    rows = [r for r in table if r["metric"] == metric and r["variant"] == "count"]
    return [r["value"] for r in rows if r["subject"] != "network"]
