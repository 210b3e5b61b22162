"""Names of the parameters of a model: tied, frozen, parametrised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from spectrank.model.parametrized import computed_weights, parametrized_prefixes
from spectrank.model.weights import known_shape, storage_key


@dataclass(frozen=True)
class Names:
    """Names of the parameters and buffers of a model.

    Attributes:
        first: Every name to the first name of the same tensor.
        aliases: First name to all names, itself first.
        frozen: First names of those that need no gradient.
        buffers: Every name of a buffer.
        computed: Of each parametrised weight the names of its factors.
        shapes: First name to the shape of the parameter.
        by_module: Paths of the modules whose forward pass is torch's own.
    """

    first: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]]
    frozen: tuple[str, ...]
    buffers: frozenset[str]
    computed: Mapping[str, frozenset[str]]
    shapes: Mapping[str, tuple[int, ...]]
    by_module: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> Names:
        """Names of a model.

        Args:
            model: Any module.

        Returns:
            The names.
        """
        found: dict[Any, list[str]] = {}
        frozen = []
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names = found.setdefault(storage_key(parameter), [])
            if not names and not parameter.requires_grad:
                frozen.append(name)
            names.append(name)
        first = {name: names[0] for names in found.values() for name in names}
        return cls(
            first=first,
            aliases={names[0]: tuple(names) for names in found.values()},
            frozen=tuple(frozen),
            buffers=frozenset(
                name for name, _ in model.named_buffers(remove_duplicate=False)
            ),
            computed=_computed(model, first),
            shapes={
                name: known_shape(parameter)
                for name, parameter in model.named_parameters(remove_duplicate=False)
            },
            by_module=frozenset(
                path
                for path, module in model.named_modules(remove_duplicate=False)
                if type(module).__module__.startswith("torch.nn.")
            ),
        )

    def computed_weight(
        self,
        factors: frozenset[str],
        shape: tuple[int, ...],
        *,
        made: str,
        used: str,
        op: str,
    ) -> str | None:
        """Name of the parametrised weight that a value is, if it is one for certain.

        Args:
            factors: First names of the parameters it is computed from.
            shape: Of the value.
            made: Module path in which the value was computed.
            used: Module path in which it is used.
            op: What uses it as a weight.

        Returns:
            Such as ``fc.weight``; None where the value is something else, such as a
            step on the way to the weight.
        """
        for weight, own in self.computed.items():
            if own != factors:
                continue
            owner, _, local = weight.rpartition(".")
            inner = f"{owner}.parametrizations.{local}".lstrip(".")
            if _inside(made, inner) and not _inside(used, inner):
                return weight
            # The older hooks compute in the layer itself, before its own forward,
            # with products of matrices and vectors that are no weights.
            own_forward = made == used == owner and owner in self.by_module
            sized = any(self.shapes[factor] == shape for factor in factors)
            if own_forward and sized and op not in _PRODUCTS:
                return weight
        return None


def _computed(model: nn.Module, first: Mapping[str, str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        starts = parametrized_prefixes(module)
        for item in computed_weights(module):
            names = [prefix + factor for factor in item.factors]
            names += [
                name
                for start, weight in starts.items()
                if weight == item.tensor_name
                for name in first
                if name.startswith(prefix + start)
            ]
            factors = frozenset(first[name] for name in names if name in first)
            found[prefix + item.tensor_name] = factors
    return found


_PRODUCTS = frozenset(["matmul", "mm", "bmm", "mv", "dot", "inner", "einsum", "addmm"])


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def layer_name(names: Sequence[str], path: str, op: str) -> str:
    """Name of the layer that holds a weight.

    Args:
        names: All names of the weight, the first first.
        path: Module path in which it is used.
        op: Name for a layer that has none: a bare ``nn.Linear``.

    Returns:
        The module, or the parameter's own name where it stands in no layer.
    """
    prefix = f"{path}." if path else ""
    name = next((n for n in names if n.startswith(prefix)), names[0])
    for ending in (".weight", "_weight"):
        if name.endswith(ending):
            return name[: -len(ending)]
    return op if name == "weight" else name
