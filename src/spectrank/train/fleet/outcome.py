"""From a finished run to its result, and what tells a run from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from spectrank.scanning.provenance import environment
from spectrank.train.fleet.checkpoint import digest
from spectrank.train.fleet.choose import Choice
from spectrank.train.fleet.data import Data
from spectrank.train.fleet.losses import Loss
from spectrank.train.fleet.progress import NAMES, Progress
from spectrank.train.fleet.result import FleetResult
from spectrank.train.fleet.settings import Settings


def outcome(
    template: nn.Module,
    parameters: Mapping[str, Tensor],
    progress: Progress,
    settings: Settings,
    choice: Choice,
    evaluations: Mapping[str, np.ndarray],
) -> FleetResult:
    """Gather what a run has found.

    Args:
        template: One member.
        parameters: Name to (M, *shape), trained.
        progress: Of the finished run.
        settings: What was asked for.
        choice: The route and why.
        evaluations: Name to (M,).

    Returns:
        The result.
    """
    first = next(iter(parameters.values()))
    return FleetResult(
        template=template,
        parameters=parameters,
        status=tuple(NAMES[code] for code in progress.status),
        num_steps=progress.num_steps,
        target_loss=settings.stopping.target,
        final_loss=progress.smoothed(),
        steps=settings.stopping.recorded(),
        losses=progress.losses,
        evaluations=evaluations,
        members=tuple(_member(settings, member) for member in range(len(first))),
        route=choice.route.name,
        provenance={
            **environment(),
            "producer": "train_fleet",
            "dtype": str(first.dtype).removeprefix("torch."),
            "device": str(first.device),
            "num_members": len(first),
            "route_reason": choice.reason,
            "optimizer": _rule(settings),
            "batch_size": settings.batch_size,
            "smoothing": settings.stopping.smoothing,
        },
    )


def fingerprint(
    template: nn.Module,
    parameters: Mapping[str, Tensor],
    data: Data,
    settings: Settings,
    choice: Choice,
    loss: Loss,
) -> dict[str, str]:
    """What a checkpoint belongs to, in words that an error message may use.

    Args:
        template: One member.
        parameters: Name to (M, *shape), before training.
        data: Training data.
        settings: What was asked for.
        choice: The route.
        loss: What is trained.

    Returns:
        Aspect to a text that is equal for equal runs.
    """
    stopping = settings.stopping
    numbers = {name: v.tolist() for name, v in settings.coefficients.items()}
    clip = settings.clip_norm
    aspects: dict[str, Any] = {
        "architecture": [repr(template), choice.route.name, template.training],
        "starting parameters": digest(parameters),
        "data": digest({"inputs": data.inputs, "targets": data.targets}),
        "loss": loss.name,
        "optimizer": [_rule(settings), numbers],
        "schedule": hashlib.sha256(settings.factors.tobytes()).hexdigest(),
        "clipping": None if clip is None else clip.tolist(),
        "batches": [settings.batch_size, settings.seeds, settings.dataset],
        "stopping": [
            stopping.max_steps.tolist(),
            stopping.target.tolist(),
            stopping.smoothing,
            stopping.record_every,
        ],
    }
    return {
        name: hashlib.sha256(json.dumps(aspect).encode()).hexdigest()
        for name, aspect in aspects.items()
    }


def _rule(settings: Settings) -> str:
    optimizer = settings.optimizer
    switches = [
        name for name in ("nesterov", "decoupled") if getattr(optimizer, name, False)
    ]
    return ", ".join([type(optimizer).__name__, *switches])


def _member(settings: Settings, member: int) -> dict[str, Any]:
    seeds, arms = settings.seeds, settings.arms
    return {
        "seed": None if seeds is None else seeds[member],
        "arm": None if arms is None else arms[member],
        "learning_rate": float(settings.coefficients["learning_rate"][member]),
        "weight_decay": float(settings.coefficients["weight_decay"][member]),
        "batch_size": settings.batch_size,
    }
