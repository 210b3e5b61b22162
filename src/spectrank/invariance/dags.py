r"""Small feedforward graphs, weight by weight: vertices, edges and paths.

A vertex computes z = sum over its in-edges of w_e h_source and h = sigma(z), with
sigma(z) = z for z > 0 and slope * z otherwise: slope 0 is ReLU, 1 is linear. A bias is
an edge from a constant input of value 1. Parallel edges are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError

Path = tuple[int, ...]


@final
@dataclass(frozen=True)
class Dag:
    """A feedforward graph with one output, numbered so that edges go upwards.

    Attributes:
        edges: (source, target) of each edge, source < target.
        slopes: Slope of each vertex at z <= 0; that of an input is not read.
        num_inputs: Vertices 0 to num_inputs - 1 are the inputs.
        constant: Whether the last of them is the constant 1, the source of biases.

    Example:
        f(x) = w1 relu(w0 x), one path.

        >>> dag = Dag(((0, 1), (1, 2)), (1.0, 0.0, 1.0), 1)
        >>> paths(dag)
        ((0, 1),)
    """

    edges: tuple[tuple[int, int], ...]
    slopes: tuple[float, ...]
    num_inputs: int
    constant: bool = False

    def __post_init__(self) -> None:
        n = len(self.slopes)
        for source, target in self.edges:
            if not (0 <= source < target < n) or target < self.num_inputs:
                raise DomainError(
                    f"an edge goes up, from a vertex to one of {self.num_inputs} to "
                    f"{n - 1}, got {(source, target)}; number inputs first, then in "
                    "the order of computation"
                )
        if not 1 <= self.num_inputs < n:
            raise DomainError(
                f"a graph has an input and a vertex that is none, got {n} vertices, "
                f"{self.num_inputs} of them inputs; the output is the last vertex"
            )

    @property
    def output(self) -> int:
        """The last vertex."""
        return len(self.slopes) - 1

    @property
    def num_features(self) -> int:
        """Number of inputs that are given, the constant not counted."""
        return self.num_inputs - self.constant


def paths(dag: Dag, *, max_paths: int = 20_000) -> tuple[Path, ...]:
    """Paths from inputs to the output, each as the numbers of its edges.

    Their number grows exponentially with depth, so it is counted first.

    Args:
        dag: The graph.
        max_paths: Refuse more than this many.

    Returns:
        The paths, those of one input together.

    Raises:
        DomainError: There are more paths.
    """
    number = _num_paths(dag)
    if number > max_paths:
        raise DomainError(
            f"at most {max_paths} paths are listed, got {number}; "
            "take a smaller graph, or raise max_paths"
        )
    leaving: list[list[int]] = [[] for _ in dag.slopes]
    for number, (source, _) in enumerate(dag.edges):
        leaving[source].append(number)

    suffixes: list[list[Path]] = [[] for _ in dag.slopes]
    suffixes[dag.output] = [()]
    for vertex in range(dag.output - 1, -1, -1):
        suffixes[vertex] = [
            (edge, *rest)
            for edge in leaving[vertex]
            for rest in suffixes[dag.edges[edge][1]]
        ]
    return tuple(path for v in range(dag.num_inputs) for path in suffixes[v])


def output_of(dag: Dag, weights: Tensor, x: Tensor) -> Tensor:
    r"""Output :math:`\nu(x; w)` of the graph.

    Args:
        dag: The graph.
        weights: (edges,) weights.
        x: (n, features) inputs.

    Returns:
        (n,) outputs, differentiable in the weights.

    Raises:
        ShapeError: The weights or the inputs do not fit the graph.
    """  # noqa: DOC502 - raised by the function called
    values = list(input_values(dag, weights, x).unbind(1))
    for vertex in range(dag.num_inputs, len(dag.slopes)):
        z = torch.zeros_like(values[0])
        for edge, (source, target) in enumerate(dag.edges):
            if target == vertex:
                z = z + weights[edge] * values[source]
        values.append(activation(z, dag.slopes[vertex]))
    return values[-1]


def activation(z: Tensor, slope: float) -> Tensor:
    """Return z where it is positive, slope * z elsewhere.

    Args:
        z: Pre-activations.
        slope: Of the other side.

    Returns:
        Activations of the same shape.
    """
    return torch.where(z > 0, z, slope * z)


def input_values(dag: Dag, weights: Tensor, x: Tensor) -> Tensor:
    """Values of the input vertices, with the constant.

    Args:
        dag: The graph.
        weights: (edges,) weights.
        x: (n, features) inputs.

    Returns:
        (n, num_inputs) values.

    Raises:
        ShapeError: The weights or the inputs do not fit the graph.
    """
    if weights.shape != (len(dag.edges),):
        raise ShapeError(
            f"a graph of {len(dag.edges)} edges has that many weights, got shape "
            f"{tuple(weights.shape)}; list them in the order of the edges"
        )
    if x.dim() != 2 or x.shape[1] != dag.num_features:
        raise ShapeError(
            f"inputs have shape (samples, {dag.num_features}), got {tuple(x.shape)}; "
            "the constant is not among them"
        )
    if not dag.constant:
        return x
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def dag_of(model: nn.Sequential, *, output: int = 0) -> tuple[Dag, Tensor]:
    """Graph and weights of a dense net: Linear, ReLU, LeakyReLU, Identity.

    Args:
        model: The net.
        output: Which of its outputs.

    Returns:
        The graph, and its weights in the order of the edges, in float64.

    Raises:
        ArgumentTypeError: A layer is of another kind.
        DomainError: There is no such output, or the first layer is no Linear.
    """  # noqa: DOC502 - raised by the function called
    layers = [m for m in model if isinstance(m, nn.Linear)]
    if not layers or not 0 <= output < layers[-1].out_features:
        raise DomainError(
            f"output is one of those of the last Linear, got {output}; "
            "give a Sequential that has one"
        )
    if not isinstance(model[0], nn.Linear):
        raise DomainError(
            "the first layer of a dense net is a Linear, got "
            f"{type(model[0]).__name__}; apply it to the inputs instead"
        )
    num_inputs = layers[0].in_features + 1
    edges: list[tuple[int, int]] = []
    weights: list[Tensor] = []
    slopes = [1.0] * num_inputs
    below = list(range(num_inputs - 1))
    for module in model:
        if not isinstance(module, nn.Linear):
            for vertex in below:
                slopes[vertex] = _composed(slopes[vertex], _slope(module))
            continue
        last = module is layers[-1]
        rows = [output] if last else range(module.out_features)
        for row in rows:
            vertex = len(slopes)
            slopes.append(1.0)
            for column, source in enumerate(below):
                edges.append((source, vertex))
                weights.append(module.weight.detach()[row, column])
            if module.bias is not None:
                edges.append((num_inputs - 1, vertex))
                weights.append(module.bias.detach()[row])
        below = list(range(len(slopes) - len(rows), len(slopes)))
    dag = Dag(tuple(edges), tuple(slopes), num_inputs, constant=True)
    return dag, torch.stack(weights).double()


def _slope(module: nn.Module) -> float:
    if isinstance(module, nn.Identity):
        return 1.0
    if isinstance(module, nn.ReLU):
        return 0.0
    if isinstance(module, nn.LeakyReLU):
        return float(module.negative_slope)
    raise ArgumentTypeError(
        "a dense net is made of Linear, ReLU, LeakyReLU and Identity, got "
        f"{type(module).__name__}; write other nets as a Dag"
    )


def _composed(first: float, second: float) -> float:
    # After a negative slope both sides are positive, and the second map keeps them.
    return first * second if first >= 0 else first


def _num_paths(dag: Dag) -> int:
    number = [0] * len(dag.slopes)
    number[dag.output] = 1
    for source, target in sorted(dag.edges, reverse=True):
        number[source] += number[target]
    return sum(number[: dag.num_inputs])
