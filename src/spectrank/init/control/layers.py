"""Layers that multiply what they take by one matrix, and why others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spectrank.errors import DomainError
from spectrank.init.control.requests import check_model
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.model.capture.rows import as_rows, patches


@final
@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A layer whose output is its input times one matrix.

    Attributes:
        weight: The matrix.
        path: Name of the layer; empty for the model itself.
        module: The layer.
        index: Its number among those found, from 1.
    """

    weight: WeightMatrix
    path: str
    module: nn.Module = field(repr=False)
    index: int

    @property
    def unfolds(self) -> bool:
        """Whether its input is read in patches."""
        return isinstance(self.module, _ConvNd)

    @property
    def key(self) -> dict[str, Any]:
        """What is the same in all its rows."""
        m, n = self.weight.shape
        return {
            "subject": self.weight.name,
            "view": self.weight.view,
            "index": self.index,
            "m": m,
            "n": n,
            "layer_type": self.weight.layer_type,
        }

    def rows_of(self, inputs: Tensor) -> Tensor:
        """Return inputs as rows (rows, n), those of a convolution as patches."""
        if not self.unfolds:
            return as_rows(inputs, inputs.ndim - 1)
        unfolded = patches(self.module, inputs)
        return as_rows(unfolded, unfolded.ndim - 1)


def linear_layers(
    model: nn.Module, select: str | Sequence[str] | None
) -> list[LinearLayer | Skip]:
    """Find the linear and convolution layers of a model, with reasons for the rest.

    Args:
        model: Any module.
        select: Glob pattern(s) of weight names; None for all.

    Returns:
        In the order of the model; tensors of fewer than two axes are not mentioned.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        DomainError: A pattern matches nothing, or no layer is linear.
    """  # noqa: DOC502 - raised by the functions called
    check_model(model, select)
    found: list[LinearLayer | Skip] = []
    number = 0
    for weight in iter_weights(model, select=select, split=False):
        if isinstance(weight, Skip):
            if len(weight.shape) >= 2 and not weight.name.startswith(
                "parametrizations"
            ):
                found.append(weight)
            continue
        path, _, local = weight.name.rpartition(".")
        module = model.get_submodule(path)
        reason = _reason(weight, local, module, model)
        if reason is None:
            number += 1
            found.append(LinearLayer(weight, path, module, number))
        else:
            found.append(skipped(weight, reason))
    if not number:
        raise DomainError(
            "there must be a linear or convolution layer, "
            f"{type(model).__name__} has none selected by {select!r}; "
            "spectrank.model.iter_weights(model) names its tensors"
        )
    return found


def skipped(weight: WeightMatrix, reason: str) -> Skip:
    """Return a matrix as one that is left out.

    Args:
        weight: Which.
        reason: Why.

    Returns:
        The skip.
    """
    return Skip(weight.name, reason, weight.shape, weight.dtype, weight.layer_type)


def skip_of(skip: Skip) -> dict[str, Any]:
    """Return the row of a layer that has no condition.

    Args:
        skip: Its name and the reason.

    Returns:
        Row for `Table.from_rows`.
    """
    return {
        "kind": "skip",
        "subject": skip.name,
        "metric": "spectral_update",
        "status": "skipped",
        "reason": skip.reason,
        "layer_type": skip.layer_type,
    }


def _reason(
    weight: WeightMatrix, local: str, module: nn.Module, model: nn.Module
) -> str | None:
    if local != "weight" or weight.view not in {
        "linear",
        "linear-transposed",
        "conv-unfolded",
    }:
        return "no layer that takes rows and multiplies them by this matrix"
    others = [n for n in weight.tied_to if model.get_submodule(_owner(n)) is not module]
    if others:
        return f"tied to {', '.join(others)}: its gradient is that of all uses"
    if isinstance(module, _ConvNd) and module.groups > 1:
        return f"a convolution in {module.groups} groups is one matrix for each group"
    return None


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
