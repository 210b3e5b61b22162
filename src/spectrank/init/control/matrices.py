"""The matrices of a model as differentiable functions of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from spectrank.errors import DomainError
from spectrank.init.control.requests import check_model
from spectrank.model import Skip, WeightMatrix, iter_weights
from spectrank.model.views import get_view


@final
@dataclass(frozen=True, eq=False)
class LiveMatrix:
    """The matrices of one weight, read anew from its parameters at each call.

    Attributes:
        weight: Name, view and shape of the whole.
        module: Owner of the weight.
        local: Name of the weight in its owner.
        groups: Number of matrices, one after the other along the outputs.
    """

    weight: WeightMatrix
    module: nn.Module = field(repr=False)
    local: str
    groups: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of each of its matrices."""
        m, n = self.weight.shape
        return m // self.groups, n

    def __call__(self) -> tuple[Tensor, ...]:
        """Return the matrices with their graph; the model is left as it is.

        A parametrised weight is taken from the cache of `parametrize.cached` where
        the forward pass has filled it, else computed in evaluation mode: power
        iteration is not advanced by being looked at.
        """
        whole = get_view(self.weight.view).apply(self._value())
        return whole.tensor_split(self.groups)

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for weights that are one: of the same tensors by the same steps."""
        if not parametrize.is_parametrized(self.module, self.local):
            return (id(self.module._parameters[self.local]),)
        lists = self.module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        steps = lists[self.local]
        assert isinstance(steps, nn.ModuleList)
        return (*map(id, steps.parameters(recurse=False)), *map(id, steps))

    def _value(self) -> Tensor:
        if not parametrize.is_parametrized(self.module, self.local):
            value: Tensor = getattr(self.module, self.local)
            return value
        if parametrize._cache_enabled:
            cached = parametrize._cache.get((id(self.module), self.local))
            if isinstance(cached, Tensor):
                return cached
        lists = self.module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        with _evaluating(lists[self.local]):
            computed: Tensor = lists[self.local]()
        return computed


def live_matrices(
    model: nn.Module, select: str | Sequence[str] | None
) -> list[LiveMatrix]:
    """Find the selected matrices of a model, each as a layer uses it, once.

    A weight shared with a parametrised one is another matrix than that one, unless it
    has the very same parametrisation. Each group of a convolution is a matrix.

    Args:
        model: Any module.
        select: Glob pattern(s) of weight names; None for all.

    Returns:
        At least one matrix, in the order of the model.

    Raises:
        ArgumentTypeError: ``model`` is no module.
        DomainError: A pattern matches nothing, there is no matrix, or one is computed
            by a forward hook.
    """  # noqa: DOC502 - raised by the functions called
    check_model(model, select)
    weights = iter_weights(model, select=select, split=False)
    used = (w if isinstance(w, WeightMatrix) else _as_stored(w, model) for w in weights)
    found = [_live(w, model) for w in used if w is not None]
    if not found:
        raise DomainError(
            f"there must be at least one matrix, {type(model).__name__} has none "
            f"selected by {select!r}; spectrank.model.iter_weights(model) gives the "
            "reason for each tensor"
        )
    return list({live.key: live for live in reversed(found)}.values())[::-1]


def _as_stored(skip: Skip, model: nn.Module) -> WeightMatrix | None:
    """The weight of a layer that shares it with a parametrised one, else None."""
    path, _, local = skip.name.rpartition(".")
    if (
        not skip.reason.startswith("tied to ")
        or ".parametrizations." not in skip.reason
    ):
        return None
    module = model.get_submodule(path)
    if "parametrizations" in path.split(".") or local not in module._parameters:
        return None
    own = next(iter_weights(module, select=local, split=False))
    return replace(own, name=skip.name) if isinstance(own, WeightMatrix) else None


def _live(weight: WeightMatrix, model: nn.Module) -> LiveMatrix:
    path, _, local = weight.name.rpartition(".")
    module = model.get_submodule(path)
    if local not in module._parameters and not parametrize.is_parametrized(
        module, local
    ):
        # Its attribute is left from the last forward pass, together with a graph that
        # the backward pass may have freed.
        raise DomainError(
            "a controlled weight must be a parameter or parametrised, "
            f"{weight.name} is computed by a forward hook (weight_norm, spectral_norm "
            "or pruning); use torch.nn.utils.parametrizations, or leave it out by "
            "select="
        )
    groups = module.groups if isinstance(module, _ConvNd) else 1
    return LiveMatrix(weight, module, local, groups)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(sub, sub.training) for sub in module.modules()]
    try:
        for sub, _ in modes:
            sub.training = False
        yield
    finally:
        for sub, mode in modes:
            sub.training = mode
