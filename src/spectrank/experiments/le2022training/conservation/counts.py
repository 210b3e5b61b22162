r"""How many laws there are: parameters less the dimension of an orbit.

The finder's laws are all of them, but for networks whose functions have few dimensions.

R  seeds    N  networks    Q  number of laws, of those that the finder knows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.le2022training.claims import KEY, claim
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import (
    Axes,
    Estimates,
    Line,
    Question,
)
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.invariance import count_laws, find

NAME = "counts"
ALL, KNOWN = range(2)
_SAMPLES = 40
_AXES = Axes("draw", "number of laws", "num_laws")
_FORMULA = (
    "Marcotte, Gribonval & Peyre (2023), arXiv:2307.00144: rk (2 r + 1 - rk) / 2 for "
    "two linear layers of inner width r and rank rk of the stacked matrices"
)


@final
class Attention(nn.Module):
    """One head of self-attention without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("query", "key", "value", "out"):
            self.add_module(name, nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it.

        Args:
            x: (N, T, width).

        Returns:
            (N, T, width).
        """
        query, key, value = (
            self.get_submodule(name)(x) for name in ("query", "key", "value")
        )
        scores = query @ key.mT / x.shape[-1] ** 0.5
        out: Tensor = self.get_submodule("out")(scores.softmax(-1) @ value)
        return out


@final
class Block(nn.Module):
    """x + U gelu(Y x)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner, bias=False)
        self.second = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: (N, width).

        Returns:
            (N, width).
        """
        out: Tensor = x + self.second(nn.functional.gelu(self.first(x)))
        return out


@final
@dataclass(frozen=True)
class Counted:
    """A small network and the number of its laws.

    Attributes:
        name: In a claim's key.
        words: In its statement.
        build: Makes it.
        shape: Of an input.
        num_laws: Expected.
        num_unknown: Those that the finder does not tell.
        num_draws: Of the weights, for each seed; several where units can be dead.
        source: Of the number.
    """

    name: str
    words: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    num_laws: int
    num_unknown: int = 0
    num_draws: int = 1
    source: str = "ours: brute force over quadratic functions gives the same number"


def _dense(
    *widths: int, act: Callable[[], nn.Module] | None = None
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            if layers and act is not None:
                layers.append(act())
            layers.append(nn.Linear(a, b, bias=False))
        return nn.Sequential(*layers)

    return build


def networks() -> tuple[Counted, ...]:
    """Return the networks with the numbers of their laws.

    Returns:
        Dense ones, linear and not; residual blocks; attention.
    """
    deep = (2, 2, 2, 1)
    unit = "ours; for two layers Marcotte, Gribonval & Peyre (2023), arXiv:2307.00144"
    return (
        Counted("linear-2-2-2", "Two linear layers 2-2-2 have rk (2r + 1 - rk) / 2 = 3 "
                "laws", _dense(2, 2, 2), (2,), 3, source=_FORMULA),
        Counted("linear-1-3-1", "Two linear layers 1-3-1, of rank 2 at inner width 3, "
                "have 5", _dense(1, 3, 1), (1,), 5, source=_FORMULA),
        Counted("linear-2-2-2-1", "Three linear layers 2-2-2-1 have the 6 entries of "
                "their gaps", _dense(*deep), (2,), 6),
        Counted("linear-1-2-2-1", "Three linear layers 1-2-2-1 have 7 laws, one more "
                "than their gaps", _dense(1, 2, 2, 1), (1,), 7, 1,
                source="ours: the functions have one dimension only"),
        Counted("leaky-relu", "Layers 2-2-2-1 with leaky ReLU have one law a hidden "
                "unit", _dense(*deep, act=nn.LeakyReLU), (2,), 4, source=unit),
        Counted("relu", "So they have with ReLU, where no unit is dead",
                _dense(*deep, act=nn.ReLU), (2,), 4, num_draws=6, source=unit),
        Counted("gelu", "With GELU they have none", _dense(*deep, act=nn.GELU),
                (2,), 0),
        Counted("tanh", "With tanh they have none", _dense(*deep, act=nn.Tanh),
                (2,), 0),
        Counted("residual", "Two blocks x + U gelu(Y x) of width 2 between two layers "
                "have the 3 of their stream", _residual, (2,), 3),
        Counted("attention", "One head of attention of width 2 has 3 laws of queries "
                "and keys and 3 of values and outputs", lambda: Attention(2), (3, 2), 6,
                source="Marcotte, Gribonval & Peyre (2025), as theirs is recalled; "
                "counted by us"),
    )  # fmt: skip


def _residual() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 2, bias=False),
        Block(2, 1),
        Block(2, 1),
        nn.Linear(2, 1, bias=False),
    )


@final
@dataclass(frozen=True)
class CountsSize:
    """How much is counted.

    Attributes:
        num_seeds: R.
    """

    num_seeds: int


def part(size: CountsSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is counted.

    Returns:
        The part.
    """
    nets = networks()
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=len(nets),
        networks=[[net.name, net.num_draws] for net in nets],
        samples=_SAMPLES,
    )


def measure(size: CountsSize, seed: int, tick: Tick) -> np.ndarray:
    """Count the laws of every network, at weights and inputs of each seed.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every network.

    Returns:
        (R, N, Q); NaN of a count that did not settle.
    """
    nets = networks()
    found = np.full((size.num_seeds, len(nets), 2), np.nan)
    for n, net in enumerate(nets):
        model = net.build().double()
        laws = find(model, torch.zeros(1, *net.shape, dtype=torch.float64), loss=None)
        for r in range(size.num_seeds):
            generator = derive_generator(seed, KEY, NAME, net.name, r)
            shape = (_SAMPLES, *net.shape)
            count = count_laws(
                model,
                torch.randn(shape, dtype=torch.float64, generator=generator),
                laws=laws,
                seed=derive_seed(seed, KEY, NAME, net.name, "weights", r),
                num_draws=net.num_draws,
            )
            if count.settled and count.num_known is not None:
                found[r, n] = count.num_laws, count.num_known
        tick()
    return found


def questions(size: CountsSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is counted.

    Returns:
        The questions; what they read is (R, N, Q).
    """
    found = []
    protocol = (
        f"{size.num_seeds} draws of weights and of {_SAMPLES} Gaussian inputs; rank of "
        "the gradients of random outputs and their Lie brackets, to a depth at which "
        "it does not grow"
    )
    for n, net in enumerate(networks()):
        known = net.num_laws - net.num_unknown
        for name, statement, quantity, number in (
            (net.name, f"{net.words}.", ALL, net.num_laws),
            (f"{net.name}-found", f"{net.words}: of these the finder reports {known}, "
             "independent ones.", KNOWN, known),
        ):  # fmt: skip
            asked = claim(
                f"{NAME}.{name}",
                statement,
                protocol=protocol,
                quantity="num_laws",
                relation="equals",
                expected=float(number),
                tolerance=0.25,
                source=net.source,
            )
            line = Line(net.name, [0.0], _number(n, quantity, keep=True), [number])
            found.append(Question(asked, _number(n, quantity), _AXES, (line,)))
    return found


def _number(n: int, quantity: int, *, keep: bool = False) -> Estimates:
    if keep:
        return lambda y: np.asarray(y[:, n, quantity, None])
    return lambda y: np.asarray(y[:, n, quantity])
