"""Forward mode: one direction per sample, sent through the model beside its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectrank.model.capture.tensors import output_tensor
from spectrank.model.capture.undisturbed import (
    Mode,
    RandomStream,
    plain_execution,
    undisturbed,
)
from spectrank.model.capture.unpack import ModelCall
from spectrank.model.differentiation import load_forward_mode


def tangents(
    model: nn.Module,
    call: ModelCall,
    source: Tensor,
    direction: Tensor,
    names: Sequence[str],
    mode: Mode,
) -> dict[str, list[Tensor | None]]:
    r"""Directional derivatives :math:`J u` of the outputs of modules, at each sample.

    Args:
        model: Left as it was.
        call: Of the model.
        source: The tensor among its arguments that moves.
        direction: u, of the same shape.
        names: Modules to watch.
        mode: In which the model runs.

    Returns:
        Module name to one tensor per call; None where a call does not depend on
        ``source``, or gives no tensor.
    """
    seen: dict[str, list[Tensor | None]] = {}
    load_forward_mode()
    with (
        RandomStream().active(),
        torch.inference_mode(mode=False),
        torch.no_grad(),
        undisturbed(model, mode),
        plain_execution(model),
        # The fused kernels have no forward mode.
        sdpa_kernel(SDPBackend.MATH),
        forward_ad.dual_level(),
    ):
        dual = forward_ad.make_dual(  # type: ignore[no-untyped-call]
            source, direction.to(source.dtype)
        )

        def exchanged(value: Any) -> Any:
            return dual if value is source else value

        args = [exchanged(value) for value in call.args]
        kwargs = {key: exchanged(value) for key, value in call.kwargs.items()}
        with _watched(model, names, seen):
            model(*args, **kwargs)
    return seen


@contextmanager
def _watched(
    model: nn.Module, names: Sequence[str], seen: dict[str, list[Tensor | None]]
) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            value = output_tensor(output)
            moving = None
            if isinstance(value, Tensor):
                found = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
                # An activation in place would change it a moment later.
                moving = None if found is None else found.detach().clone()
            seen.setdefault(name, []).append(moving)

        return after

    modules = dict(model.named_modules(remove_duplicate=False))
    with ExitStack() as stack:
        for name in names:
            handle = modules[name].register_forward_hook(hook(name), prepend=True)
            stack.callback(handle.remove)
        yield
