"""Which modules of a model are captured, under which names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.model.weights import storage_key

Choice = str | type[nn.Module]
Choices = Choice | Sequence[Choice] | None

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_KNOWN = (
    nn.Linear,
    nn.Bilinear,
    _ConvNd,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
)


@dataclass(frozen=True)
class Layer:
    """A captured module.

    Attributes:
        name: As in ``model.named_modules()``.
        module: The module itself.
        attention: The ``nn.MultiheadAttention`` that multiplies by this module's weight
            without calling the module; None for a module that is called.
        tied_to: Other modules of the model that hold the same weight tensor.
    """

    name: str
    module: nn.Module = field(repr=False)
    attention: nn.MultiheadAttention | None = field(repr=False)
    tied_to: tuple[str, ...]


def choose_layers(model: nn.Module, layers: Choices) -> tuple[Layer, ...]:
    """The modules to capture, in module order.

    Args:
        model: Any module.
        layers: None for every leaf module with a weight of two or more axes that is no
            normalisation. Else any of: an exact name, which may be of any module; a
            glob pattern, which matches weight layers and normalisations; a module
            class, which takes all its instances.

    Returns:
        The layers, each once even if registered under several names.

    Raises:
        ArgumentTypeError: ``layers`` holds something else.
        UnknownNameError: A name, pattern or class is not in the model.
        DomainError: The model has parameters without a shape, or no layer to capture.
    """  # noqa: DOC502 - raised by the functions called
    if any(is_lazy(p) for p in model.parameters()):
        raise DomainError(
            "a model must know its shapes to be captured, it has uninitialised lazy "
            "parameters; run it on one batch first"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    if layers is None:
        chosen = {n for n, m in modules.items() if is_weight_layer(m)}
    else:
        items = list(layers) if isinstance(layers, Iterable) else [layers]
        items = [layers] if isinstance(layers, str | type) else items
        chosen = set().union(*(_matches(item, modules) for item in items))
    if not chosen:
        raise DomainError(
            "there must be a layer to capture, "
            f"{type(model).__name__} has no leaf module with a weight; "
            "name modules in layers="
        )
    return tuple(_layers(modules, chosen))


def is_weight_layer(module: nn.Module) -> bool:
    """Whether a module is a leaf that holds a weight and is no normalisation.

    Args:
        module: Any module.

    Returns:
        True for the layers that are captured by default.
    """
    if isinstance(module, NORMS):
        return False
    return isinstance(module, _KNOWN) or (
        _is_leaf(module) and any(p.ndim >= 2 for p in _own(module))
    )


def _is_leaf(module: nn.Module) -> bool:
    # torch keeps the factors of a parametrised weight in a child of that name.
    return all(name == "parametrizations" for name, _ in module.named_children())


def _own(module: nn.Module) -> Iterator[Tensor]:
    return module.parameters(recurse=False)


def _matches(item: object, modules: dict[str, nn.Module]) -> set[str]:
    if isinstance(item, type) and issubclass(item, nn.Module):
        found = {n for n, m in modules.items() if isinstance(m, item)}
        label = item.__name__
    elif isinstance(item, str) and item in modules:
        return {item}
    elif isinstance(item, str):
        found = {
            n
            for n, m in modules.items()
            if fnmatchcase(n, item) and (is_weight_layer(m) or isinstance(m, NORMS))
        }
        label = repr(item)
    else:
        raise ArgumentTypeError(
            "layers must hold names, glob patterns or module classes, "
            f"got {type(item).__name__}; pass names of model.named_modules()"
        )
    if not found:
        near = difflib.get_close_matches(str(label).strip("'"), modules, n=3)
        names = near or [n for n, m in modules.items() if is_weight_layer(m)][:5]
        raise UnknownNameError(
            f"layers must name modules of the model, {label} is none; "
            f"there are {', '.join(names)}"
        )
    return found


def _layers(modules: dict[str, nn.Module], chosen: set[str]) -> Iterator[Layer]:
    attentions = {
        id(m.out_proj): m
        for m in modules.values()
        # A subclass with its own forward may well call the module.
        if isinstance(m, nn.MultiheadAttention)
        and type(m).forward is nn.MultiheadAttention.forward
    }
    seen: set[int] = set()
    for name, module in modules.items():
        if name in chosen and id(module) not in seen:
            seen.add(id(module))
            attention = attentions.get(id(module))
            yield Layer(name, module, attention, _tied(name, module, modules))


def _tied(
    name: str, module: nn.Module, modules: dict[str, nn.Module]
) -> tuple[str, ...]:
    weight = module._parameters.get("weight")
    if weight is None:
        return ()
    key = storage_key(weight)
    return tuple(
        other
        for other, m in modules.items()
        if m is not module
        and other != name
        and (twin := m._parameters.get("weight")) is not None
        and storage_key(twin) == key
    )
