"""Running a user's model under ``torch.func``: both modes, nothing left behind."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectrank.model.capture.undisturbed import (
    RandomStream,
    plain_execution,
    undisturbed,
)


def load_forward_mode() -> None:
    """Load what torch loads at the first dual number, with a deprecation of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


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
