"""Running a user's model under ``torch.func``: both modes, nothing left behind."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectrank.model.capture.undisturbed import (
    RandomStream,
    plain_execution,
    undisturbed,
)

Tangent = dict[str, Tensor]
"""Name of a parameter to a tensor of its shape."""


def load_forward_mode() -> None:
    """Load what torch loads at the first dual number, with a deprecation of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def twice_backward(
    f: Callable[[Tangent], Tensor], at: Tangent, along: Tangent
) -> tuple[Tensor, Tensor]:
    r"""Value and directional derivative J t where f has no forward mode.

    :math:`u \mapsto J^T u` is linear, and J t is its derivative along t: two backward
    passes. Differentiable in ``along``.

    Args:
        f: Function of named tensors.
        at: Where.
        along: t, of the same names and shapes.

    Returns:
        f(at) and J t.
    """
    value = f(at)
    pull = vjp(lambda u: vjp(f, at)[1](u)[0], torch.zeros_like(value))[1]
    found: Tensor = pull(along)[0]
    return value, found


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Run a model in the mode it is in, on kernels that have every derivative.

    Fused attention has no forward mode and the recurrent layers of oneDNN and cuDNN no
    second derivative; these are switched off. The model, its buffers and the global
    random state are put back on exit. Forward mode needs ``load_forward_mode`` before.

    Args:
        model: The user's model.

    Yields:
        Nothing.
    """
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    with (
        RandomStream().active(),
        torch.inference_mode(mode=False),
        undisturbed(model, None),
        plain_execution(model),
        _plain_recurrence() if recurrent else nullcontext(),
        sdpa_kernel(SDPBackend.MATH),
        warnings.catch_warnings(),
    ):
        # A slow batching rule is still the right number.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


@contextmanager
def _plain_recurrence() -> Iterator[None]:
    # The flags() of these modules would touch, and warn of, settings of TF32 as well.
    backends: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [backend.enabled for backend in backends]
    for backend in backends:
        backend.enabled = False
    try:
        yield
    finally:
        for backend, enabled in zip(backends, before, strict=True):
            backend.enabled = enabled
