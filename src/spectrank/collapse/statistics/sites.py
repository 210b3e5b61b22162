"""Which layers have statistics: a weight matrix applied to every row of their input.

For such a layer out = W in + b row by row, so the gradient of a summed loss for W is
the sum of outer products of output gradients and inputs: all the theory asks of it.
Modules that hold one tensor are one site. What is no such layer is a `Skip` with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from spectrank.collapse.statistics.unmeasured import complete_skips
from spectrank.linalg.shapes import Float64
from spectrank.model import Skip, get_view
from spectrank.model.capture.choose import Choices, Layer, choose_layers
from spectrank.model.weights import storage_key

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
@dataclass(frozen=True, eq=False)
class Site:
    """One weight matrix and the modules that apply it.

    Attributes:
        name: Of the first module.
        module: It.
        uses: Names of all modules that hold the weight, ``name`` first.
        weight_name: Of the parameter.
        view: Convention of the matrix, a key of ``VIEWS``.
        parametrised: The matrix is computed from other parameters (weight norm, ...).
    """

    name: str
    module: nn.Module = field(repr=False)
    uses: tuple[str, ...]
    weight_name: str
    view: str
    parametrised: bool

    @property
    def unfolds(self) -> bool:
        """Whether a row of the input is a patch."""
        return self.view == "conv-unfolded"

    def weight(self) -> Float64[Tensor, "m n"]:
        """Return the matrix as it is now, a copy in float64."""
        with torch.no_grad():
            matrix = get_view(self.view).apply(self.module.weight)  # type: ignore[arg-type]
            return matrix.detach().to(torch.float64, copy=True)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), outputs and inputs."""
        with torch.no_grad():
            shape = tuple(self.module.weight.shape)  # type: ignore[arg-type]
        m, n = get_view(self.view).matrix_shape(shape)
        return m, n


def find_sites(
    model: nn.Module, layers: Choices
) -> tuple[tuple[Site, ...], tuple[Skip, ...]]:
    """The sites of a model, and a reason for each chosen layer that is none.

    Args:
        model: Any module.
        layers: As in `spectrank.capture`, or the name of a layer's weight, which its
            rows have.

    Returns:
        Sites in module order, each weight once, and skips: of the chosen layers, and
        without ``layers`` of every other matrix too.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[object, Site] = {}
    skips: list[Skip] = []
    chosen = choose_layers(model, _by_module(layers, modules))
    for layer in chosen:
        reason = _reason(layer, modules)
        if reason is not None:
            skips.append(_skip(layer, reason))
            continue
        parametrised = "weight" not in layer.module._parameters
        key = layer.name if parametrised else storage_key(_stored(layer.module))
        if key in found:
            continue
        found[key] = Site(
            name=layer.name,
            module=layer.module,
            uses=(layer.name, *layer.tied_to),
            weight_name=f"{layer.name}.weight" if layer.name else "weight",
            view=_view(layer.module),
            parametrised=parametrised,
        )
    measured = {
        f"{u}.weight" if u else "weight" for s in found.values() for u in s.uses
    }
    owners = None if layers is None else {layer.name for layer in chosen}
    more = complete_skips(model, measured, tuple(skips), owners)
    return tuple(found.values()), more


def _by_module(layers: Choices, modules: dict[str, nn.Module]) -> Choices:
    """Names of weights as names of their modules."""
    if layers is None or isinstance(layers, type):
        return layers

    def one(item: Any) -> Any:
        if not isinstance(item, str) or item in modules:
            return item
        owner, _, tensor = item.rpartition(".")
        found = tensor == "weight" and owner in modules
        return owner if found and hasattr(modules[owner], "weight") else item

    return one(layers) if isinstance(layers, str) else [one(item) for item in layers]


def _stored(module: nn.Module) -> Tensor:
    weight = module._parameters["weight"]
    assert weight is not None
    return weight


def _view(module: nn.Module) -> str:
    if isinstance(module, _CONVOLUTIONS):
        return "conv-unfolded"
    return "linear" if isinstance(module, nn.Linear) else "linear-transposed"


def _reason(layer: Layer, modules: dict[str, nn.Module]) -> str | None:
    """Why a layer, or one that holds the same tensor, is no site."""
    for name in (layer.name, *layer.tied_to):
        for reason in _reasons(modules[name]):
            tied = "" if name == layer.name else f"it shares its weight with {name}: "
            return tied + reason
    return None


def _reasons(module: nn.Module) -> Iterator[str]:
    kind = type(module).__name__
    known = next(
        (t for t in (nn.Linear, *_CONVOLUTIONS) if isinstance(module, t)), None
    )
    if known is None:
        if not (kind == "Conv1D" and hasattr(module, "nf")):
            yield (
                f"{kind} does not apply one weight matrix to every row of its input: "
                "cluster statistics are those of linear layers and convolutions"
            )
    elif type(module).forward is not known.forward:
        yield f"{kind} replaces the forward pass of {known.__name__}"
    elif getattr(module, "groups", 1) != 1:
        yield (
            f"a convolution in {module.groups} groups applies as many matrices to "
            "parts of a patch; its kernel is not one matrix"
        )


def _skip(layer: Layer, reason: str) -> Skip:
    weight = layer.module._parameters.get("weight")
    return Skip(
        name=f"{layer.name}.weight" if weight is not None else layer.name,
        reason=reason,
        shape=() if weight is None else tuple(weight.shape),
        dtype=None if weight is None else weight.dtype,
        layer_type=type(layer.module).__name__,
    )
