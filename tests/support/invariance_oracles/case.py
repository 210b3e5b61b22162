"""A small net, the inputs it takes, and gradients of random risks of it.

A gradient is that of sum(cotangent * output), with a random cotangent for every entry
of the output: whatever the loss and the targets, its gradient is of that form. Losses
that see differences of logits only, as softmax cross-entropy, have cotangents that sum
to zero over the classes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_LARGEST = 1e5

Inputs = Callable[[torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A net and how many laws it has.

    count and sums: independent laws for any loss, and how many a loss of softmax type
    adds. linear: how many of the count are linear in the parameters (None: not
    stated). class_axis: of the logits, counted from the end.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    count: int
    sums: int = 0
    linear: int | None = None
    softmax: bool = False
    class_axis: int = -1
    train: bool = True
    scale: float = 1.0
    note: str = ""
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def expected(self) -> int:
        return self.count + (self.sums if self.softmax else 0)

    def module(self) -> nn.Module:
        """Return the net in float64, in its mode, with random parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.build().double().train(self.train)


def features(*sizes: int, batch: int = 3) -> Inputs:
    """Inputs: one tensor of normal entries."""
    return lambda generator: (
        torch.randn(batch, *sizes, generator=generator, dtype=torch.float64),
    )


def tokens(vocabulary: int, length: int, batch: int = 2) -> Inputs:
    """Inputs: one tensor of random token numbers."""
    return lambda generator: (
        torch.randint(vocabulary, (batch, length), generator=generator),
    )


def randomised(
    model: nn.Module, generator: torch.Generator, scale: float = 1.0
) -> nn.Module:
    """Fill a model with normal entries in place, biases and norms of size one too."""
    with torch.no_grad():
        for parameter in model.parameters():
            spread = scale
            if parameter.dim() > 1:
                # Keeps softmax and sigmoids away from where their gradients vanish.
                spread = scale * (2 / math.prod(parameter.shape[1:])) ** 0.5
            value = torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
            parameter.copy_(value * spread)
    return model


def draws(
    case: Case, generator: torch.Generator, *, cotangents: int = 1
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield (weights, gradient) of fresh weights, data and cotangents, without end."""
    model = case.module()
    while True:
        randomised(model, generator, case.scale)
        learned = {n: p for n, p in model.named_parameters() if p.requires_grad}
        with torch.random.fork_rng(devices=[]):
            # Masks of dropout: fresh for every draw, reproducible for a generator.
            seed = torch.randint(2**31, (1,), generator=generator)
            torch.manual_seed(int(seed))
            output = model(*case.inputs(generator))
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        for _ in range(cotangents):
            cotangent = torch.randn(
                output.shape, generator=generator, dtype=torch.float64
            )
            if case.softmax:
                cotangent = cotangent - cotangent.mean(case.class_axis, keepdim=True)
            found = torch.autograd.grad(
                output,
                list(learned.values()),
                cotangent,
                retain_graph=True,
                allow_unused=True,
            )
            gradient = {
                name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(learned.items(), found, strict=True)
            }
            # A dead unit before a normalisation has variance zero, and its gradient
            # is 1 / sqrt(eps) times rounding.
            if all(float(g.abs().max()) < _LARGEST for g in gradient.values()):
                yield weights, gradient
