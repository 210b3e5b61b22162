"""The public tools on real steps: what a watch says of every optimiser, and balancing.

A convolutional network of torch, trained on minibatches with optimisers of torch, its
laws found on its graph. What the watch is told is the laws and the optimiser alone.

R  seeds    A  arms    Q  quantities
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adam, Optimizer

from spectrank.experiments.le2022training.claims import KEY
from spectrank.experiments.papers import Tick
from spectrank.experiments.seeds import derive_generator
from spectrank.invariance import Laws, Watch, balance_, find

NAME = "watched"
INPUTS, CLASSES, SAMPLES, BATCH = 8, 3, 40, 10
STEPS, EVERY = 30, 5
EDITED, EDITED_AT = "3.weight", 22
PREDICTED, BROKEN, OPEN, RESIDUAL, DRIFT, STRUCTURE, RIGHT = range(7)
CHANGE, IMBALANCE, NORM = range(3)
_Clip = Callable[[Iterable[Tensor]], object]


@final
@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: In claims' keys.
        words: In their statements.
        optimizer: Of the parameters.
        clip: What is done to gradients before a step; None for nothing.
        edited: Whether a weight is changed from outside on the way.
    """

    name: str
    words: str
    optimizer: Callable[[Iterable[Tensor]], Optimizer]
    clip: _Clip | None = None
    edited: bool = False


def _sgd(**options: Any) -> Callable[[Iterable[Tensor]], Optimizer]:
    return lambda parameters: SGD(parameters, lr=0.05, **options)


ARMS = (
    Arm("sgd", "SGD", _sgd()),
    Arm("momentum", "SGD with momentum 0.9", _sgd(momentum=0.9)),
    Arm("nesterov", "SGD with Nesterov's momentum 0.9", _sgd(momentum=0.9,
        nesterov=True)),
    Arm("decay", "SGD with momentum 0.5 and weight decay 0.1",
        _sgd(momentum=0.5, weight_decay=0.1)),
    Arm("clipped-by-norm", "SGD with gradients clipped to a norm of 0.3", _sgd(),
        lambda parameters: clip_grad_norm_(parameters, 0.3)),
    Arm("clipped-by-value", "SGD with every entry of the gradients clipped to 0.01",
        _sgd(), lambda parameters: clip_grad_value_(parameters, 0.01)),
    Arm("adam", "Adam", lambda parameters: Adam(parameters, lr=0.01)),
    Arm("edited", f"SGD, and a weight of {EDITED} that is changed between two steps",
        _sgd(), edited=True),
)  # fmt: skip
CLIPPED_BY_VALUE, ADAM, EDIT = 5, 6, 7


@final
@dataclass(frozen=True)
class WatchedSize:
    """How much is trained.

    Attributes:
        num_seeds: R.
    """

    num_seeds: int


def network(generator: torch.Generator) -> nn.Sequential:
    """Draw the network in float64, biases of size one half.

    Args:
        generator: Source of randomness.

    Returns:
        Two convolutions with ReLU, two dense layers.
    """
    net = nn.Sequential(
        nn.Unflatten(1, (1, INPUTS)),
        nn.Conv1d(1, 4, 3),
        nn.ReLU(),
        nn.Conv1d(4, 4, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.ReLU(),
        nn.Linear(6, CLASSES),
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            value = torch.randn(
                parameter.shape, dtype=torch.float64, generator=generator
            )
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(value / fan_in**0.5)
    return net


def measure(size: WatchedSize, seed: int, tick: Tick) -> tuple[np.ndarray, np.ndarray]:
    """Train in every way under a watch, then balance a network.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every seed.

    Returns:
        (R, A, Q): of the rows of the watch the shares that are conserved or explained,
        of families that are broken at the end, of rows without a prediction; largest
        residual over largest drift; largest drift; largest violation of the structure
        over its tolerance; share of families whose break, or its absence, is told right
        (NaN where no weight is edited). (R, 3): change of the outputs by balancing,
        largest imbalance after it, squared norm over that before.
    """
    watched = np.full((size.num_seeds, len(ARMS), 7), np.nan)
    balanced = np.empty((size.num_seeds, 3))
    example = torch.zeros(1, INPUTS, dtype=torch.float64)
    laws = find(network(torch.Generator()), example, cuts=True)
    for r in range(size.num_seeds):
        generator = derive_generator(seed, KEY, NAME, "data", r)
        x = torch.randn(SAMPLES, INPUTS, dtype=torch.float64, generator=generator)
        teacher = torch.randn(INPUTS, CLASSES, dtype=torch.float64, generator=generator)
        labels = (x @ teacher).argmax(1)
        for a, arm in enumerate(ARMS):
            generator = derive_generator(seed, KEY, NAME, "start", r)
            net = network(generator)
            rows = trained(net, laws, arm, x, labels, generator)
            watched[r, a] = told(rows, laws, edited=arm.edited)
        balanced[r] = rebalanced(network(generator), laws, x)
        tick()
    return watched, balanced


def trained(
    net: nn.Module,
    laws: Laws,
    arm: Arm,
    x: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """Train under a watch.

    Args:
        net: Trained in place.
        laws: Of it.
        arm: How.
        x: (n, INPUTS).
        labels: (n,) classes.
        generator: Of the minibatches.

    Returns:
        Rows of the watch, the start left out.
    """
    optimizer = arm.optimizer(net.parameters())
    with Watch(
        net, laws, optimizer=optimizer, every=EVERY, structure_every=EVERY
    ) as watch:
        for step in range(STEPS):
            if arm.edited and step == EDITED_AT:
                with torch.no_grad():
                    net.get_parameter(EDITED).view(-1)[0] += 0.1
            chosen = torch.randperm(len(x), generator=generator)[:BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            if arm.clip is not None:
                arm.clip(net.parameters())
            optimizer.step()
    return [row for row in watch.table().frame.to_dicts() if row["step"] > 0]


def told(rows: list[dict[str, Any]], laws: Laws, *, edited: bool) -> np.ndarray:
    """Summarise what the watch says.

    Args:
        rows: Of the watch.
        laws: That were watched.
        edited: Whether a weight was edited.

    Returns:
        (Q,) as of `measure`.
    """
    last = [row for row in rows if row["step"] == STEPS]
    verdicts = np.array([row["verdict"] for row in rows])
    residuals = [abs(row["residual"]) for row in rows if row["residual"] is not None]
    drift = max(row["largest_drift"] for row in rows)
    structure = [
        row["structure"] / row["structure_tolerance"]
        for row in rows
        if row["structure"] is not None
    ]
    found = np.full(7, np.nan)
    found[PREDICTED] = np.isin(verdicts, ["conserved", "explained"]).mean()
    found[BROKEN] = np.mean([row["verdict"] == "broken" for row in last])
    found[OPEN] = (verdicts == "not_applicable").mean()
    found[RESIDUAL] = max(residuals, default=np.nan) / drift
    found[DRIFT] = drift
    found[STRUCTURE] = max(structure)
    if edited:
        found[RIGHT] = np.mean([_right(row, laws) for row in last])
    return found


def _right(row: dict[str, Any], laws: Laws) -> bool:
    """Whether a break is told at the edited weight and the next evaluation."""
    verdict: str = row["verdict"]
    if EDITED not in laws[row["subject"]].parameters:
        return verdict in {"conserved", "explained"}
    step = -(-(EDITED_AT + 1) // EVERY) * EVERY
    where: tuple[int, list[str]] = row["broken_step"], row["suspects"]
    return verdict == "broken" and where == (step, [EDITED])


def rebalanced(net: nn.Module, laws: Laws, x: Tensor) -> np.ndarray:
    """Balance a network.

    Args:
        net: Changed in place.
        laws: Of it.
        x: Inputs on which outputs are compared.

    Returns:
        (3,) as of `measure`.
    """
    with torch.no_grad():
        before = net(x)
        rows = balance_(net, laws).frame.to_dicts()
        change = (net(x) - before).abs().max() / before.abs().max()
    norms = {
        row["variant"]: row["value"] for row in rows if row["metric"] == "norm_squared"
    }
    after = [
        row["value"]
        for row in rows
        if row["metric"] == "imbalance" and row["variant"] == "after"
    ]
    return np.array([float(change), max(after), norms["after"] / norms["before"]])
