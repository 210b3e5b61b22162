"""The value of a parametrised weight, computed without a trace in the model.

Three mechanisms of torch: ``torch.nn.utils.parametrize``; the older weight_norm and
spectral_norm, which recompute ``layer.weight`` in a forward hook; pruning, which does
the same. The value is that of evaluation mode: no power iteration, no dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


class Computed(NamedTuple):
    """A weight that is computed from others.

    Attributes:
        tensor_name: Local name in its module, such as ``weight``.
        factors: Local names, in the same module, of what it is computed from; a
            parametrisation keeps its factors in submodules instead.
        load: Computes the value, detached.
    """

    tensor_name: str
    factors: tuple[str, ...]
    load: Callable[[], Tensor]


def computed_weights(module: nn.Module) -> list[Computed]:
    """Weights of one module (its children aside) that are computed from others.

    Args:
        module: Any module.

    Returns:
        One item per computed weight, in order of registration.
    """
    found = []
    if parametrize.is_parametrized(module):
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        found += [
            # The list itself is called: getattr(module, name) would read or fill the
            # cache of parametrize.cached().
            Computed(name, (), partial(_evaluate, parametrization, parametrization))
            for name, parametrization in lists.items()
        ]
    for hook in module._forward_pre_hooks.values():
        item = _from_hook(module, hook)
        if item is not None:
            found.append(item)
    return found


def parametrized_prefixes(module: nn.Module) -> dict[str, str]:
    """Where the parametrisations of one module keep their own tensors.

    Args:
        module: Any module.

    Returns:
        Local prefix of their names, to the local name of the weight they make.
    """
    if not parametrize.is_parametrized(module):
        return {}
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    return {f"parametrizations.{name}.": name for name in lists}


def _from_hook(module: nn.Module, hook: Any) -> Computed | None:
    # The attribute layer.weight that these hooks leave behind is stale after an
    # optimiser step or load_state_dict, so the value is computed from the factors.
    compute: Callable[[], Tensor]
    factors: tuple[str, ...]
    if isinstance(hook, WeightNorm):
        name, factors = hook.name, (f"{hook.name}_g", f"{hook.name}_v")
        compute = partial(hook.compute_weight, module)
    elif isinstance(hook, SpectralNorm):
        name, factors = hook.name, (f"{hook.name}_orig",)
        compute = partial(hook.compute_weight, module, do_power_iteration=False)
    elif isinstance(hook, BasePruningMethod):
        name = str(hook._tensor_name)
        factors = (f"{name}_orig",)
        compute = partial(hook.apply_mask, module)
    else:
        return None
    return Computed(name, factors, partial(_evaluate, module, compute))


def _evaluate(module: nn.Module, compute: Callable[[], Tensor]) -> Tensor:
    with _undisturbed(module):
        return compute().detach()


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, copied buffers and forked random state; restored on exit.

    Every buffer is replaced by a copy and the original object is put back, so that
    neither its values nor its version counter (which autograd watches) change.
    Attributes that the computation rebinds are put back too.
    """
    submodules = list(module.modules())
    saved = [(sub, dict(vars(sub)), dict(sub._buffers)) for sub in submodules]
    devices = sorted(
        {t.device.index for t in _tensors(module) if t.device.type == "cuda"}
    )
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            for sub in submodules:
                sub.training = False
                for name, buffer in sub._buffers.items():
                    if buffer is not None:
                        sub._buffers[name] = buffer.clone()
            yield
        finally:
            for sub, attributes, buffers in saved:
                vars(sub).clear()
                vars(sub).update(attributes)
                sub._buffers.clear()
                sub._buffers.update(buffers)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
