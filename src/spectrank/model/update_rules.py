"""What each optimizer class of ``torch.optim`` does, read from a group and a state.

Conventions as in `spectrank.model.optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch.optim import Optimizer

DecayKind = Literal["coupled", "decoupled", "none", "unknown"]

# A reader takes the group and the parameter's state and gives the fields of
# ParameterSettings that are its own; ``coupling`` is the kind of a decay that is not 0.
Fields = dict[str, Any]
Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], Fields]


def _sgd(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
    # Without momentum torch keeps no buffer and ignores the dampening.
    momentum = float(group["momentum"])
    return {
        "weight_decay": group["weight_decay"],
        "momentum": momentum,
        "dampening": float(group["dampening"]) if momentum != 0.0 else 0.0,
        "nesterov": bool(group["nesterov"]),
        "adaptive": False,
    }


def _asgd(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
    # w <- w (1 - lambd eta) - eta (g + d w): without momentum one decay of d + lambd.
    # eta falls from step to step and lives in the state.
    fields: Fields = {
        "weight_decay": group["weight_decay"] + group["lambd"],
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "adaptive": False,
        "notes": ("weight_decay includes lambd; the learning rate falls by itself",),
    }
    if "eta" in state:
        fields["learning_rate"] = state["eta"]
    return fields


def _muon(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
    return {
        "weight_decay": group["weight_decay"],
        "coupling": "decoupled",
        "momentum": float(group["momentum"]),
        "dampening": float(group["momentum"]),
        "nesterov": bool(group["nesterov"]),
        "adaptive": True,
        "notes": ("the step is orthogonalised and scaled by the shape of the weight",),
    }


def _adam_family(*, decoupled: bool) -> Reader:
    def read(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
        # A flag of the group in Adam, NAdam and RAdam; AdamW has it always.
        apart = decoupled or bool(group.get("decoupled_weight_decay", False))
        first, second = group["betas"]
        return {
            "weight_decay": group.get("weight_decay", 0.0),
            "coupling": "decoupled" if apart else "coupled",
            "betas": (float(first), float(second)),
            "adaptive": True,
        }

    return read


def _rmsprop(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
    # The buffer averages preconditioned gradients.
    return {
        "weight_decay": group["weight_decay"],
        "momentum": float(group["momentum"]),
        "dampening": 0.0,
        "nesterov": False,
        "adaptive": True,
    }


def _adagrad(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
    steps_done = float(state.get("step", 0.0))
    rate = float(group["lr"]) / (1.0 + steps_done * group["lr_decay"])
    return {
        "weight_decay": group["weight_decay"],
        "learning_rate": rate,
        "adaptive": True,
    }


def _adaptive(coupling: DecayKind, *notes: str) -> Reader:
    def read(group: Mapping[str, Any], state: Mapping[str, Any]) -> Fields:
        return {
            "weight_decay": group.get("weight_decay", 0.0),
            "coupling": coupling,
            "adaptive": True,
            "notes": notes,
        }

    return read


_BY_NAME: dict[str, Reader] = {
    "SGD": _sgd,
    "ASGD": _asgd,
    "Adam": _adam_family(decoupled=False),
    "AdamW": _adam_family(decoupled=True),
    "NAdam": _adam_family(decoupled=False),
    "RAdam": _adam_family(decoupled=False),
    "Adamax": _adam_family(decoupled=False),
    "SparseAdam": _adam_family(decoupled=False),
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adaptive("coupled"),
    "Adafactor": _adaptive(
        "decoupled", "the step is scaled by the norm of the weight and 1 / sqrt(step)"
    ),
    "Rprop": _adaptive("none", "only the sign of the gradient enters"),
    "LBFGS": _adaptive("none", "one step moves all parameters by a shared curvature"),
    "Muon": _muon,
}

# torch 2.6 has no Muon.
READERS: dict[type[Optimizer], Reader] = {
    getattr(torch.optim, name): reader
    for name, reader in _BY_NAME.items()
    if hasattr(torch.optim, name)
}
