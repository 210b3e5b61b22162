"""One pass of the user's model over points of the curve, watched at its bends.

The model itself runs, in float64, on a batch of points. Steps are met in the order in
which they run, so that all a step depends on has been cut into affine intervals before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from spectrank.errors import DomainError
from spectrank.model.capture.undisturbed import RandomStream, undisturbed
from spectrank.propagation.pieces.plan import Plan, Step
from spectrank.propagation.pieces.points import Pins
from spectrank.propagation.pieces.steps import BENDS, POOL

Visit = Callable[[int, str, Tensor, Any, tuple[Any, ...], dict[str, Any]], None]


class _EnoughSeen(Exception):
    """Ends a pass at the step that it was made for."""


@final
class Network:
    """A model with its tensors in float64; the user's own are not touched.

    Args:
        model: The user's model.
        plan: Its bends.
        tensors: Values for some of its parameters instead of its own.
        device: Where it runs.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        tensors: Mapping[str, Tensor] | None,
        device: torch.device,
    ) -> None:
        self.plan = plan
        self._model = model
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        own.update(tensors or {})
        self._tensors = {name: _double(x, device) for name, x in own.items()}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Put the model into evaluation mode; on exit it is as it was.

        Yields:
            Nothing.
        """
        with RandomStream().active(), undisturbed(self._model, "eval"):
            yield

    def run(
        self,
        points: Tensor,
        pins: Mapping[int, Pins],
        visit: Visit,
        *,
        until: int | None = None,
    ) -> Tensor | None:
        """Send points through the network, inside ``opened``.

        Args:
            points: (P, *sample) float64.
            pins: Step to what is exactly known of its pre-activations at these points.
            visit: Called at every step with its number, operator, input, output and
                further arguments.
            until: Step after which the pass ends; None to run to the output.

        Returns:
            (P, outputs), None where the pass ended before.

        Raises:
            DomainError: The pass does not meet the bends of the graph, or there is not
                one output with the points on its first axis.
        """
        watch = _Watch(self.plan.steps, len(points), pins, visit, until)
        output: Any = None
        with suppress(_EnoughSeen), torch.no_grad(), watch:
            output = functional_call(self._model, self._tensors, (points,))
        if until is not None:
            return None
        if watch.count != len(self.plan.steps):
            raise DomainError(_mismatch(self.plan.steps, watch.count, "nothing more"))
        if not isinstance(output, Tensor) or len(output) != len(points):
            raise DomainError(
                "pieces are counted of one output tensor with the points on its first "
                f"axis, got {_shown(output)} for {len(points)} points; wrap the model "
                "so that it returns that tensor"
            )
        return output.reshape(len(points), -1)


@final
class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator of a pass."""

    def __init__(
        self,
        steps: Sequence[Step],
        num_points: int,
        pins: Mapping[int, Pins],
        visit: Visit,
        until: int | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self._steps, self._num_points = steps, num_points
        self._pins, self._visit, self._until = pins, visit, until

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator; at a bend pin its input and show both sides."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        in_place = name.endswith("_") and name.removesuffix("_") in BENDS
        name = name.removesuffix("_") if in_place else name
        if name not in BENDS and name != POOL:
            return func(*args, **kwargs)
        number, self.count = self.count, self.count + 1
        x, rest = args[0], args[1:]
        self._check(number, name, x)
        pins = self._pins.get(number)
        if pins is not None and len(pins.point):
            # In place where the model is: others read the same tensor.
            x = x if in_place else x.clone()
            place = torch.unravel_index(pins.unit, x.shape[1:])
            x[(pins.point, *place)] = pins.level
        before = x.clone() if in_place else x
        output = func(x, *rest, **kwargs)
        shown = output[0] if isinstance(output, tuple) else output
        self._visit(number, name, before, shown, rest, kwargs)
        if number == self._until:
            raise _EnoughSeen
        return output

    def _check(self, number: int, name: str, x: Tensor) -> None:
        if number >= len(self._steps) or name not in self._steps[number].ops:
            raise DomainError(_mismatch(self._steps, number, name))
        if x.ndim < 2 or len(x) != self._num_points:
            raise DomainError(
                "every step must keep the points on its first axis, the input of "
                f"{self._steps[number].subject} has shape {tuple(x.shape)} for "
                f"{self._num_points} points; wrap the model so that it does"
            )


def _mismatch(steps: Sequence[Step], number: int, got: str) -> str:
    due = steps[number].subject if number < len(steps) else "no further one"
    return (
        f"a pass must meet the {len(steps)} bends of the model's graph in their order, "
        f"at number {number} it met {got} where {due} was due; write activations as "
        "torch's own functions, without branches that depend on values"
    )


def _double(x: Tensor, device: torch.device) -> Tensor:
    x = x.detach().to(device)
    return x.to(torch.float64) if x.is_floating_point() else x


def _shown(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    return type(output).__name__
