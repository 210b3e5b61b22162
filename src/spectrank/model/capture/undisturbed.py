"""Running a user's model and leaving it, and the random state, as they were.

Everything is done around one step, between two batches of the user's loop: nothing is
left behind when the loop is broken off, and a loop may train the model meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

Mode = Literal["eval", "train"] | None


@contextmanager
def undisturbed(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Run a model in a mode and put everything back on exit.

    Buffers are replaced by copies and the original objects put back, so neither their
    values nor their version counters (which autograd watches) change. Attributes,
    parameters and submodules that the forward pass rebinds are put back too; a list or
    dict that it fills in place is not seen.

    Args:
        model: The user's model.
        mode: Flags during the run; None leaves every module's own.

    Yields:
        Nothing.
    """
    modules = list(model.modules())
    saved = [
        (m, dict(vars(m)), dict(m._buffers), dict(m._parameters), dict(m._modules))
        for m in modules
    ]
    copies: dict[int, Tensor] = {}
    try:
        for module in modules:
            if mode is not None:
                module.training = mode == "train"
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    # One copy of a buffer that two modules share.
                    copy = copies.setdefault(id(buffer), buffer.detach().clone())
                    module._buffers[name] = copy
        yield
    finally:
        for module, attributes, buffers, parameters, children in saved:
            own = vars(module)
            for name in own.keys() - attributes.keys():
                del own[name]
            own.update(attributes)
            _put_back(module._buffers, buffers)
            _put_back(module._parameters, parameters)
            _put_back(module._modules, children)


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    if now.keys() != before.keys():
        now.clear()
    now.update(before)


@contextmanager
def plain_execution(model: nn.Module) -> Iterator[None]:
    """Switch off what bypasses hooks: fused attention paths and compiled graphs.

    Args:
        model: The user's model.

    Yields:
        Nothing.
    """
    compiled = any(
        getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod")
        for m in model.modules()
    )
    # set_stance loads the compiler, which takes seconds.
    stance = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with stance:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class _RandomState:
    cpu: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any


@final
class RandomStream:
    """A copy of the global random state that runs on beside it.

    A pass draws from its own stream: dropout and augmentation differ from batch to
    batch as they should, and the caller's stream stands still. The stream starts where
    the caller's was, so a pass is repeatable under a seed.
    """

    def __init__(self) -> None:
        self._state: _RandomState | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream in the block: torch (CPU, CUDA), NumPy and random.

        Yields:
            Nothing.
        """
        outside = _read()
        if self._state is not None:
            _write(self._state)
        try:
            yield
        finally:
            self._state = _read()
            _write(outside)


# NumPy's global state is the legacy one: it is what other people's code draws from.
def _read() -> _RandomState:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if started else ()
    legacy = np.random.get_state()  # noqa: NPY002
    return _RandomState(torch.get_rng_state(), tuple(cuda), legacy, random.getstate())


def _write(state: _RandomState) -> None:
    torch.set_rng_state(state.cpu)
    if state.cuda:
        torch.cuda.set_rng_state_all(state.cuda)
    np.random.set_state(state.numpy)  # noqa: NPY002
    random.setstate(state.python)
