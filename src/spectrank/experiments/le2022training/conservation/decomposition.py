r"""Random graphs as trees of signs over their paths: nu(x; w) = mu(h(x; w)).

A vertex is ReLU, leaky or linear; there are skips and biases. mu is read from the signs
of the weights alone, so that it stays the same as long as they keep them.

R  seeds    G  graphs    Q  quantities
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.claims import Relation
from spectrank.experiments.le2022training.claims import KEY, claim
from spectrank.experiments.le2022training.measured import measured_part
from spectrank.experiments.papers import Part, Tick
from spectrank.experiments.questions import Axes, Line, Question
from spectrank.experiments.seeds import derive_generator
from spectrank.invariance import (
    Dag,
    output_of,
    path_gradient,
    path_values,
    sign_tree,
)

NAME = "decomposition"
_SLOPES = (0.0, 0.2, 1.0)
_FEATURES, _SAMPLES = 3, 16
_EXACT, _FALSE = -11.0, -2.0
_FLOOR = 1e-17
SIGNED, ABSOLUTE, GRADIENT, KEPT, MIXED, FLIPPED = range(6)
_AXES = Axes("graph", "largest relative error", "relative_error", "linear", "log")


@final
@dataclass(frozen=True)
class DecompositionSize:
    """How much is drawn.

    Attributes:
        num_seeds: R.
        num_graphs: G, of each seed.
        num_hidden: Hidden vertices of the largest graphs.
    """

    num_seeds: int
    num_graphs: int = 12
    num_hidden: int = 6


def part(size: DecompositionSize) -> Part:
    """Return the experiment.

    Args:
        size: How much is drawn.

    Returns:
        The part.
    """
    return measured_part(
        NAME,
        measure,
        size,
        questions(size),
        num_steps=size.num_seeds,
        slopes=_SLOPES,
        samples=_SAMPLES,
    )


def measure(size: DecompositionSize, seed: int, tick: Tick) -> np.ndarray:
    """Draw graphs and weights, and compare them with their trees.

    Args:
        size: How much.
        seed: Base seed.
        tick: Called after every seed.

    Returns:
        (R, G, Q): relative errors of the tree of signed path values and of absolute
        ones; of the gradient by paths; of the tree for other weights of the same signs;
        of the tree of absolute values on signed ones; of the tree for the same weights,
        one of which has turned its sign.
    """
    found = np.empty((size.num_seeds, size.num_graphs, 6))
    for r in range(size.num_seeds):
        for g in range(size.num_graphs):
            generator = derive_generator(seed, KEY, NAME, r, g)
            dag = random_dag(1 + g % size.num_hidden, generator)
            found[r, g] = errors(dag, generator)
        tick()
    return found


def random_dag(num_hidden: int, generator: torch.Generator) -> Dag:
    """Draw a graph in which every hidden vertex has an in-edge and an out-edge.

    Each further pair of vertices is joined with probability one half, the constant
    included.

    Args:
        num_hidden: Hidden vertices.
        generator: Source of randomness.

    Returns:
        The graph, its output linear.
    """
    num_inputs = _FEATURES + 1
    n = num_inputs + num_hidden + 1
    joined = torch.rand(n, n, generator=generator) < 0.5
    for vertex in range(num_inputs, n):
        source = int(torch.randint(_FEATURES, (1,), generator=generator))
        joined[source, vertex] = True
        if vertex < n - 1:
            joined[vertex, n - 1] = True
    edges = tuple(
        (source, target)
        for target in range(num_inputs, n)
        for source in range(target)
        if joined[source, target]
    )
    chosen = torch.randint(len(_SLOPES), (num_hidden,), generator=generator).tolist()
    slopes = (*[1.0] * num_inputs, *(_SLOPES[i] for i in chosen), 1.0)
    return Dag(edges, slopes, num_inputs, constant=True)


def errors(dag: Dag, generator: torch.Generator) -> np.ndarray:
    """Draw weights and inputs of a graph and compare it with its trees.

    Args:
        dag: The graph.
        generator: Source of randomness.

    Returns:
        (Q,), relative to the largest output or gradient, or to 1 if that is smaller.
    """
    num = len(dag.edges)
    weights, others = torch.randn(2, num, dtype=torch.float64, generator=generator)
    x = torch.randn(_SAMPLES, _FEATURES, dtype=torch.float64, generator=generator)
    own, plain = (sign_tree(dag, weights, absolute=a) for a in (False, True))
    same = weights.sign() * others.abs()
    turned = weights.clone()
    turned[_inner(dag, generator)] *= -1.0
    found = np.empty(6)
    output = output_of(dag, weights, x)
    signed = path_values(dag, weights, x)
    found[SIGNED] = _error(own(signed), output)
    found[ABSOLUTE] = _error(plain(path_values(dag, weights, x, absolute=True)), output)
    found[GRADIENT] = _error(path_gradient(dag, weights, x), _autograd(dag, weights, x))
    found[KEPT] = _error(own(path_values(dag, same, x)), output_of(dag, same, x))
    found[MIXED] = _error(plain(signed), output)
    found[FLIPPED] = _error(own(path_values(dag, turned, x)), output_of(dag, turned, x))
    return found


def _inner(dag: Dag, generator: torch.Generator) -> int:
    """An edge that leaves a hidden vertex: the tree reads no sign of the others."""
    edges = [e for e, (source, _) in enumerate(dag.edges) if source >= dag.num_inputs]
    return edges[int(torch.randint(len(edges), (1,), generator=generator))]


def _autograd(dag: Dag, weights: Tensor, x: Tensor) -> Tensor:
    """(n, edges) by backpropagation through the graph itself."""
    rows = []
    for sample in x:
        leaf = weights.clone().requires_grad_()
        with torch.enable_grad():
            output = output_of(dag, leaf, sample[None]).sum()
        rows.append(torch.autograd.grad(output, leaf)[0])
    return torch.stack(rows)


def _error(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max().clamp(min=1.0))


def questions(size: DecompositionSize) -> list[Question]:
    """Return what is asked.

    Args:
        size: How much is drawn.

    Returns:
        The questions; what they read is (R, G, Q).
    """
    protocol = (
        f"{size.num_seeds} x {size.num_graphs} random graphs of {_FEATURES} inputs, 1 "
        f"to {size.num_hidden} hidden vertices with skips and biases, slopes 0, 0.2 or "
        f"1; Gaussian weights, {_SAMPLES} Gaussian inputs; log10 of the largest error "
        "over graphs, relative to the largest output"
    )

    def ask(
        name: str,
        statement: str,
        quantity: int,
        relation: Relation,
        limit: float,
        place: str = "",
        source: str = "",
    ) -> Question:
        asked = claim(
            f"{NAME}.{name}",
            statement,
            protocol=protocol,
            quantity="log10_largest_relative_error",
            relation=relation,
            expected=limit,
            place=place,
            source=source,
        )
        line = Line(name, range(size.num_graphs), _each(quantity), None)
        return Question(asked, _largest(quantity), _AXES, (line,))

    earlier = "an earlier run of ours had 1.8e-15"
    return [
        ask("signed", "A network is a tree of signs over the values of its paths.",
            SIGNED, "at_most", _EXACT, "Lemma 1",
            f"the signs of the tree spelled out by us; {earlier}"),
        ask("absolute", "So it is over the absolute values of its paths.",
            ABSOLUTE, "at_most", _EXACT, "Lemma 5", earlier),
        ask("same-signs", "The tree is the same for all weights of the same signs.",
            KEPT, "at_most", _EXACT, "Lemma 1"),
        ask("gradient", "Its gradient is a sum over paths that has no derivative of an "
            "activation in it.", GRADIENT, "at_most", _EXACT, "",
            f"derived from Lemma 1 by the chain rule; {earlier}"),
        ask("versions-differ", "The two versions have different trees: that of "
            "absolute values is wrong for signed ones.", MIXED, "at_least", _FALSE, "",
            "derived: a signed value has the sign of its first edge already"),
        ask("other-signs", "A weight of a hidden vertex that turns its sign has "
            "another tree.", FLIPPED, "at_least", _FALSE, "",
            "derived: signs are all that it reads"),
    ]  # fmt: skip


def _each(quantity: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: np.asarray(y[:, :, quantity].clip(_FLOOR))


def _largest(quantity: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda y: np.log10(y[:, :, quantity].max(1).clip(_FLOOR))
