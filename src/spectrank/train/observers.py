"""Observers: what a training loop tells after each optimizer step.

Two ways to be told, never both at once. In the loop, after ``optimizer.step()``::

    observer.observe(optimizer, loss)

or by a hook of the optimizer, with the loop left as it is::

    with observer.attach(optimizer):
        train()

What counts as a step:

- One call of ``observe``, or one call of ``optimizer.step()`` that ran to its end.
  ``LBFGS`` evaluates its closure many times in a step: that is one step.
- A ``GradScaler`` that meets infinite gradients does not call ``optimizer.step()``: an
  attached observer does not count it, ``observe`` in the loop does. Optimizers that
  take the scale themselves (``fused=True``) are called and count either way.
- A subclass whose ``step`` calls ``super().step()`` runs its hooks twice: one step,
  unless that ``step`` is compiled.
- With several optimizers attached a step is over when each of them has stepped at
  least once since the last: the two of a Muon and AdamW pair make one step together.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.train.calls import Calls


@dataclass(frozen=True, eq=False)
class Step:
    """One finished step of training.

    Attributes:
        index: Number of steps finished, this one included.
        optimizers: Those that stepped; empty where the observer was asked to look
            between steps.
        loss: As the loop told it, a number or a scalar tensor; None where it did not.
    """

    index: int
    optimizers: tuple[Optimizer, ...]
    loss: Tensor | float | None


class Observer(ABC):
    """Looks at a run after each optimizer step and changes nothing in it.

    Subclasses say in ``on_step`` what they look at.

    Attributes:
        step: Number of steps seen, counted on from ``first_step``.
    """

    def __init__(self, *, first_step: int = 0) -> None:
        if not isinstance(first_step, int) or isinstance(first_step, bool):
            raise ArgumentTypeError(
                f"first_step is a whole number, got {first_step!r}; "
                "it is the number of steps done before, 0 for a new run"
            )
        if first_step < 0:
            raise DomainError(
                f"first_step must be at least 0, got {first_step}; "
                "it is the number of steps done before, 0 for a new run"
            )
        self._step = first_step
        self._loss: Tensor | float | None = None
        self._attachment: Attachment | None = None

    @abstractmethod
    def on_step(self, step: Step) -> None:
        """Look at the run; called once a step, with the parameters updated.

        Args:
            step: The step that was finished.
        """

    @property
    def step(self) -> int:
        """Number of steps finished."""
        return self._step

    def observe(self, optimizer: Optimizer, loss: Tensor | float | None = None) -> None:
        """Count a step and look at it; call it after ``optimizer.step()``.

        Args:
            optimizer: The one that stepped; its learning rates are read.
            loss: Of this step, a number or a scalar tensor; it is not kept on the
                graph.

        Raises:
            DomainError: If the observer is attached, which would count twice.
        """
        if self._attachment is not None:
            raise DomainError(
                "an attached observer counts steps by itself, observe() would count "
                "them twice; drop the call, or remove the attachment first"
            )
        _check_optimizers([optimizer])
        self.note(loss)
        self._finish((optimizer,))

    def note(self, loss: Tensor | float | None) -> None:
        """Tell the loss of the step to come; for attached observers, which get none.

        Args:
            loss: A number or a scalar tensor; call before ``optimizer.step()``.

        Raises:
            DomainError: If the tensor has more than one entry.
            ArgumentTypeError: If it is no number.
        """
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise DomainError(
                    "a loss is one number, got a tensor of shape "
                    f"{tuple(loss.shape)}; reduce it first, e.g. loss.mean()"
                )
            # A copy: captured graphs and in-place code write to the same memory.
            loss = loss.detach().reshape(()).clone()
        elif loss is not None and not isinstance(loss, int | float):
            raise ArgumentTypeError(
                f"a loss is a number or a scalar tensor, got {type(loss).__name__}; "
                "convert it first, e.g. float(loss)"
            )
        self._loss = loss

    def attach(self, *optimizers: Optimizer) -> Attachment:
        """Look after every step of these optimizers, by the hooks of their steps.

        Args:
            *optimizers: One, or all that make up a step together.

        Returns:
            A handle: ``remove()`` it, or use it in a ``with`` block.

        Raises:
            DomainError: If the observer is attached already, or the same optimizer
                is named twice.
        """
        if self._attachment is not None:
            raise DomainError(
                "an observer is attached once, this one is attached already; "
                "remove() that attachment first, or attach all optimizers together"
            )
        _check_optimizers(optimizers)
        if len({id(optimizer) for optimizer in optimizers}) < len(optimizers):
            raise DomainError(
                "each optimizer is attached once, got one of them twice; "
                "name it once: its steps are counted by its own hook"
            )
        self._attachment = Attachment(self, optimizers)
        return self._attachment

    def _finish(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._step += 1
        loss, self._loss = self._loss, None
        self.on_step(Step(self._step, optimizers, loss))

    def _detached(self) -> None:
        self._attachment = None


@final
class Attachment:
    """The hooks by which an observer hears of steps; removable, at most once.

    Attributes:
        attached: Whether the hooks are in place.
    """

    def __init__(self, observer: Observer, optimizers: Sequence[Optimizer]) -> None:
        self._observer: Observer | None = observer
        self._optimizers = tuple(optimizers)
        self._waiting = self._ids()
        self._calls = Calls()
        self._handles: list[RemovableHandle] = [
            hook
            for optimizer in optimizers
            for hook in (
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            )
        ]

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return self._observer is not None

    def remove(self) -> None:
        """Take the hooks away; the optimizers are as before. Twice does no harm."""
        if self._observer is None:
            return
        for handle in self._handles:
            handle.remove()
        self._observer._detached()
        self._observer = None

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _ids(self) -> set[int]:
        return {id(optimizer) for optimizer in self._optimizers}

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A compiler has no frames to follow, and warns: it sees no call begin.
        if not torch.compiler.is_compiling():
            self._calls.nested(optimizer, sys._getframe(1))

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        over = torch.compiler.is_compiling() or self._calls.over(
            optimizer, sys._getframe(1), unseen=True
        )
        if self._observer is None or not over:
            return
        self._waiting.discard(id(optimizer))
        if not self._waiting:
            self._waiting = self._ids()
            self._observer._finish(self._optimizers)


def _check_optimizers(optimizers: Sequence[object]) -> None:
    if not optimizers:
        raise DomainError(
            "an observer is attached to at least one optimizer, got none; "
            "pass the one whose steps count"
        )
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(
                "an observer watches a torch.optim.Optimizer, got "
                f"{type(optimizer).__name__}; pass the optimizer itself, not its "
                "parameters or its scheduler"
            )
