"""Which route a template takes, and which templates take none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from spectrank.errors import DomainError, SpectrankError, UnknownNameError
from spectrank.train.fleet.general import LoopRoute, VmapRoute
from spectrank.train.fleet.losses import Loss
from spectrank.train.fleet.mlp import MlpRoute, read_layers
from spectrank.train.fleet.route import Route

ROUTES = ("auto", "mlp", "vmap", "loop")


@dataclass(frozen=True)
class Choice:
    """A route and why it was taken.

    Attributes:
        route: Computes the groups.
        reason: One sentence.
        outputs: Of one member on the samples of the trial.
    """

    route: Route
    reason: str
    outputs: Tensor


def choose_route(
    template: nn.Module,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    route: str = "auto",
) -> Choice:
    """Pick a route, and try it on a few samples with the first two members.

    Args:
        template: One member.
        loss: What is trained.
        parameters: Name to (M, *shape).
        inputs: (B, *shape), a few samples.
        targets: Their targets.
        route: ``auto`` or a route's name.

    Returns:
        The route that runs.

    Raises:
        UnknownNameError: There is no route of that name.
        DomainError: The template cannot be trained as a fleet, or not by this route.
    """
    if route not in ROUTES:
        raise UnknownNameError(
            f"a route is one of {', '.join(ROUTES)}, got {route!r}; choose one of these"
        )
    refuse(template)
    layers = read_layers(template, inputs)
    trial = _Trial(template, loss, parameters, inputs, targets)
    if not isinstance(layers, str) and route in {"auto", "mlp"}:
        return trial.of(MlpRoute(layers, loss), "linear layers and elementwise maps")
    if route == "mlp":
        raise DomainError(
            "the route 'mlp' takes an nn.Sequential of linear layers, each followed "
            f"by at most one elementwise map, but {layers}; leave the route to 'auto'"
        )
    because = layers if isinstance(layers, str) else "as asked"
    if route == "loop":
        return trial.of(LoopRoute(template, loss), because)
    if route == "auto" and _is_convolutional(template, inputs.device):
        because = "convolutions, batched over members, are slower on a CPU"
        return trial.of(LoopRoute(template, loss), because)
    try:
        return trial.of(VmapRoute(template, loss), because)
    except DomainError as error:
        if route == "vmap" or error.__cause__ is None:
            raise
        because = f"vmap does not take it ({_first_line(error.__cause__)})"
    return trial.of(LoopRoute(template, loss), because)


def refuse(template: nn.Module) -> None:
    """Refuse what a fleet cannot keep apart or reproduce.

    Args:
        template: One member.

    Raises:
        DomainError: A module keeps running statistics, or draws random numbers.
    """
    for name, module in template.named_modules():
        if (
            isinstance(module, _NormBase)
            and module.training
            and (module.track_running_stats)
        ):
            raise DomainError(
                "a fleet trains parameters alone, but "
                f"{name or 'the template'} ({type(module).__name__}) updates running "
                "statistics in its forward pass; use track_running_stats=False, "
                "LayerNorm or GroupNorm"
            )
        rate = module.p if isinstance(module, _DropoutNd) else 0.0
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            rate = module.dropout
        if module.training and rate > 0.0:
            raise DomainError(
                "a member's run depends on its seed alone, but "
                f"{name or 'the template'} ({type(module).__name__}) drops units at "
                f"random with probability {rate}; set it to 0 or call .eval()"
            )


def _is_convolutional(template: nn.Module, device: torch.device) -> bool:
    # A 2-layer CNN, 16 members, batch 128: 183 ms a member and step by vmap (grouped
    # convolutions), 45 ms one by one.
    return device.type == "cpu" and any(
        isinstance(module, _ConvNd) for module in template.modules()
    )


@dataclass(frozen=True)
class _Trial:
    """One pass of two members on a few samples; nothing of it is kept."""

    template: nn.Module
    loss: Loss
    parameters: Mapping[str, Tensor]
    inputs: Tensor
    targets: Tensor

    def of(self, route: Route, reason: str) -> Choice:
        with _no_randomness(self.inputs.device), torch.no_grad():
            try:
                return Choice(route, reason, self._outputs(route))
            except SpectrankError:
                raise
            except Exception as error:
                raise DomainError(
                    f"a template must map inputs {tuple(self.inputs.shape)} to outputs "
                    f"by the route {route.name!r}, it raised {type(error).__name__}: "
                    f"{_first_line(error)}; check the inputs' shape and dtype, or "
                    "choose another route"
                ) from error

    def _outputs(self, route: Route) -> Tensor:
        values = {name: value[:2].clone() for name, value in self.parameters.items()}
        gradients = {name: torch.zeros_like(value) for name, value in values.items()}
        num_members = len(next(iter(values.values())))
        x = self.inputs.expand(num_members, *self.inputs.shape)
        y = self.targets.expand(num_members, *self.targets.shape)
        outputs = route.outputs(values, x)[0]
        self.loss.check(outputs, self.targets)
        route.bind(values, gradients, len(self.inputs))(x, y)
        return outputs


@contextmanager
def _no_randomness(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were, and refuse what moved them."""
    cuda = device.type == "cuda"
    before = torch.get_rng_state()
    before_cuda = torch.cuda.get_rng_state(device) if cuda else before
    try:
        yield
    finally:
        drawn = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
        if cuda:
            drawn |= not torch.equal(before_cuda, torch.cuda.get_rng_state(device))
            torch.cuda.set_rng_state(before_cuda, device)
    if drawn:
        raise DomainError(
            "a member's run depends on its seed alone, but the template draws random "
            "numbers in its forward pass; take the randomness out or call .eval()"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
