"""Networks on images by minibatch SGD: found laws step by step, certificates, spectra.

R  seeds    N  networks    T  checkpoints    Q  quantities
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.experiments.images import Images, Split
from spectrank.experiments.le2022training.claims import KEY, claim
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Axes, Line, Question, question_part
from spectrank.experiments.seeds import derive_generator
from spectrank.invariance import Laws, find
from spectrank.invariance.certificates import certify
from spectrank.invariance.laws import evaluate_all
from spectrank.metrics import stable_rank
from spectrank.model import Graph, graph

NAME = "images"
_RATE, _BATCH, _STEPS, _CHECKPOINTS = 0.05, 50, 300, 4
_RESIDUAL, _DRIFT, _EXCESS, _STABLE, _RANDOM = range(5)
_NETWORKS = ("mlp", "binary", "cnn", "residual")
_WORDS = (
    "ReLU perceptron of ten classes with three linear layers on top",
    "the same with one output, digits below 5 against the rest, logistic loss",
    "two convolutions with ReLU, a maximum over positions, two linear layers",
    "residual perceptron, two blocks x + U relu(Y x), two linear layers",
)


@final
@dataclass(frozen=True)
class ImagesSize:
    """How much is trained.

    Attributes:
        images: On what.
        num_seeds: R.
    """

    images: Images
    num_seeds: int


@final
class _Block(nn.Module):
    """x + U relu(Y x)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, inner)
        self.second = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: (N, width).

        Returns:
            (N, width).
        """
        out: Tensor = x + self.second(functional.relu(self.first(x)))
        return out


def draw(name: str, side: int, generator: torch.Generator) -> nn.Sequential:
    """Draw a network in float64: He's Gaussian weights, biases N(0, 0.01).

    Args:
        name: One of the networks.
        side: Of the images in pixels.
        generator: Source of randomness.

    Returns:
        The network.
    """
    num = side * side
    outputs = 1 if name == "binary" else 10
    if name == "cnn":
        layers: list[nn.Module] = [
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12 * (side // 4) ** 2, 16),
        ]
    elif name == "residual":
        layers = [nn.Flatten(), nn.Linear(num, 24), _Block(24, 16), _Block(24, 16)]
        layers.append(nn.Linear(24, 16))
    else:
        layers = [nn.Flatten(), nn.Linear(num, 32), nn.ReLU(), nn.Linear(32, 24)]
        layers += [nn.ReLU(), nn.Linear(24, 16), nn.Linear(16, 16)]
    net = nn.Sequential(*layers, nn.Linear(16, outputs)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            value = torch.randn(
                parameter.shape, dtype=torch.float64, generator=generator
            )
            fan_in = parameter[0].numel()
            scale = 0.1 if parameter.ndim == 1 else (2.0 / fan_in) ** 0.5
            parameter.copy_(scale * value)
    return net


def part(size: ImagesSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is trained.

    Returns:
        The part.
    """

    def record(seed: int, tick: Tick) -> np.ndarray:
        return measure(size, seed, tick)

    data = size.images.data
    return question_part(
        f"{NAME}-{data}",
        questions(size),
        record,
        settings={
            "images": asdict(size.images),
            "num_seeds": size.num_seeds,
            "steps": [_RATE, _BATCH, _STEPS, _CHECKPOINTS],
            "networks": _WORDS,
        },
        num_steps=size.num_seeds * len(_NETWORKS),
        data=lambda: {data: size.images.sha256},
    )


def measure(size: ImagesSize, seed: int, tick: Tick) -> np.ndarray:
    """Train every network of every seed.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after each.

    Returns:
        (R, N, T, Q): of the found laws the largest distance to the prediction of the
        steps and the largest drift, both relative to the family's largest value; the
        largest relative excess over a certified bound; stable rank of the layer below
        the last at the checkpoint and at the start.
    """
    shape = (size.num_seeds, len(_NETWORKS), _CHECKPOINTS, 5)
    found = np.empty(shape)
    for r in range(size.num_seeds):
        for n, name in enumerate(_NETWORKS):
            found[r, n] = _trained(name, size.images.train, seed, r)
            tick()
    return found


def _trained(name: str, data: Split, seed: int, replicate: int) -> np.ndarray:
    """(T, Q)."""
    inputs = data.inputs.double()
    generator = derive_generator(seed, KEY, NAME, name, replicate)
    net = draw(name, inputs.shape[-1], generator)
    traced = graph(net, inputs[:2])
    laws = find(traced, loss=None if name == "binary" else "cross_entropy")
    start = {k: v.detach().clone() for k, v in net.named_parameters()}
    told = evaluate_all(laws, start)
    first = {k: v.clone() for k, v in told.items()}
    found = np.empty((_CHECKPOINTS, 5))
    for step in range(_STEPS):
        chosen = torch.randperm(len(inputs), generator=generator)[:_BATCH]
        gradients = _gradients(net, name, inputs[chosen], data.labels[chosen])
        _advance(laws, told, gradients)
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                parameter.sub_(gradients[key], alpha=_RATE)
        t, rest = divmod(step + 1, _STEPS // _CHECKPOINTS)
        if not rest:
            now = {k: v.detach() for k, v in net.named_parameters()}
            values = evaluate_all(laws, now)
            found[t - 1] = (
                _distance(values, told, first),
                _distance(values, first, first),
                *_certified(traced, start, now, softmax=name != "binary"),
            )
    return found


def _gradients(
    net: nn.Module, name: str, inputs: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    out = net(inputs)
    if name == "binary":
        loss = functional.softplus(out[:, 0] * (1.0 - 2.0 * (labels < 5))).mean()
    else:
        loss = functional.cross_entropy(out, labels)
    names, values = zip(*net.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


def _advance(
    laws: Laws, told: dict[str, Tensor], gradients: Mapping[str, Tensor]
) -> None:
    """Add what a step of plain SGD adds: eta^2 h(g), nothing of a linear law."""
    for name, value in evaluate_all(laws, gradients).items():
        if laws[name].form != "linear":
            told[name] += _RATE**2 * value


def _distance(
    values: Mapping[str, Tensor], to: Mapping[str, Tensor], first: Mapping[str, Tensor]
) -> float:
    """Largest difference of a law, relative to the largest value of its family."""
    return max(
        float((values[k] - to[k]).abs().max() / first[k].abs().max().clamp(min=1.0))
        for k in values
    )


def _certified(
    traced: Graph,
    start: Mapping[str, Tensor],
    now: Mapping[str, Tensor],
    *,
    softmax: bool,
) -> tuple[float, float, float]:
    """Largest excess over a bound; stable rank of the layer below the last, twice."""
    table = certify(traced, start=start, now=now, softmax=softmax)
    rows = [row for row in table.frame.to_dicts() if row["bound"] is not None]
    # The last layer's bounds are 0 or 1 with one output, whatever the training did.
    last = max((row["subject"] for row in rows), key=int)
    lower = [row for row in rows if row["subject"] != last]
    excess = max(0.0, *(-row["slack"] / max(abs(row["bound"]), 1.0) for row in lower))
    below = sorted({row["subject"] for row in rows}, key=int)[-2]
    name = f"{below}.weight"
    return excess, float(stable_rank(now[name])), float(stable_rank(start[name]))


def questions(size: ImagesSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is trained.

    Returns:
        The questions; what they read is (R, N, T, Q).
    """
    found = []
    for n, name in enumerate(_NETWORKS):
        found += _of_network(n, name, size)
    return found


def _of_network(n: int, name: str, size: ImagesSize) -> list[Question]:
    data = size.images.data
    protocol = (
        f"{data}, {size.images.num_train} images; {_WORDS[n]}, with biases; "
        f"{size.num_seeds} draws; {_STEPS} steps of SGD at rate {_RATE:g} on {_BATCH} "
        f"images, float64, {_CHECKPOINTS} checkpoints; all laws that the finder reports"
    )
    steps = [_STEPS // _CHECKPOINTS * (t + 1) for t in range(_CHECKPOINTS)]

    def lines(*quantities: tuple[str, int]) -> tuple[Line, ...]:
        return tuple(
            Line(words, steps, lambda y, q=q: np.asarray(y[:, n, :, q]), None)  # type: ignore[misc]
            for words, q in quantities
        )

    laws = lines(("distance to the prediction", _RESIDUAL), ("drift", _DRIFT))
    ranks = lines(("layer below the last", _STABLE), ("the same, start", _RANDOM))
    return [
        Question(
            claim(
                f"{NAME}.laws-explained-{name}",
                "What every law that is found drifts by is what the steps predict.",
                protocol=protocol,
                quantity="log10_largest_relative_distance",
                relation="at_most",
                expected=-11.0,
                source="derived: h(w - eta g) = h(w) + eta^2 h(g)",
                data=data,
            ),
            lambda y: np.log10(y[:, n, :, _RESIDUAL].max(1).clip(1e-17)),
            Axes("step", "largest relative change of a law", "drift", "linear", "log"),
            laws,
        ),
        Question(
            claim(
                f"{NAME}.certificate-{name}",
                "Every bound on the linear tail that the start gives, drift added, "
                "holds at every checkpoint.",
                protocol=protocol,
                quantity="largest_relative_excess_over_a_bound",
                relation="at_most",
                expected=1e-9,
                place="Theorem 2" if name == "binary" else "",
                source="constants of the bounds, and more than one output, ours",
                data=data,
            ),
            lambda y: y[:, n, :, _EXCESS].max(1),
            Axes("step", "stable rank", "stable_rank"),
            ranks,
        ),
    ]
