"""Running a user's model under ``torch.func``: both modes, nothing left behind."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

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

    Fused attention has no forward mode and oneDNN's recurrent layer no second
    derivative; both are switched off. The model, its buffers and the global random
    state are put back on exit. No graph is recorded outside ``torch.func``.

    Args:
        model: The user's model.

    Yields:
        Nothing.
    """
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    plain = torch.backends.mkldnn.flags(enabled=False) if recurrent else nullcontext()
    load_forward_mode()
    with (
        RandomStream().active(),
        torch.inference_mode(mode=False),
        undisturbed(model, None),
        plain_execution(model),
        plain,
        sdpa_kernel(SDPBackend.MATH),
        warnings.catch_warnings(),
    ):
        # A slow batching rule is still the right number.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield
