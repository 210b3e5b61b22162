"""The matrices of a model as differentiable functions of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from torch import Tensor, nn
from torch.nn.utils import parametrize

from spectrank.errors import DomainError
from spectrank.init.control.requests import check_model
from spectrank.model import WeightMatrix, iter_weights
from spectrank.model.views import get_view


@final
@dataclass(frozen=True, eq=False)
class LiveMatrix:
    """One matrix of a model, read anew from its parameters at each call.

    Attributes:
        weight: Name, view and shape.
        module: Owner of the weight.
        local: Name of the weight in its owner.
    """

    weight: WeightMatrix
    module: nn.Module = field(repr=False)
    local: str

    def __call__(self) -> Tensor:
        """Return the matrix (m, n) with its graph; the model is left as it is.

        A parametrised weight is taken from the cache of `parametrize.cached` where
        the forward pass has filled it, else computed in evaluation mode: power
        iteration is not advanced by being looked at.
        """
        return get_view(self.weight.view).apply(self._value())

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
    """Find the selected matrices of a model, tied ones once.

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
    weights = iter_weights(model, select=select)
    found = [_live(w, model) for w in weights if isinstance(w, WeightMatrix)]
    if not found:
        raise DomainError(
            f"select must choose at least one matrix, got none from {select!r}; "
            "iter_weights(model) gives the reason for each tensor"
        )
    return found


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
    return LiveMatrix(weight, module, local)


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
