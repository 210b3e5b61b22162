"""The gain of a layer by what follows it in the model's graph.

From a layer on, steps that keep every entry (reshapes, pools, norms, shifts, scalings,
dropout) are passed; the first that does not decides: an activation by its gain, and
anything else (a sum of branches, a product, attention, the next layer, the output) as
no activation at all, with the reason in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from spectrank.errors import DomainError
from spectrank.model.graph import Graph, Link, Node
from spectrank.random_nets.activations import GAINS, activation_gain

_PASSED = frozenset(["reshape", "pool", "norm", "scale", "shift"])
_PASSED_OPS = frozenset(
    ["dropout", "cast", "mul", "div", "neg", "add", "detach", "masked_fill"]
)
_RECURRENT = ("lstm", "gru", "rnn")


@final
@dataclass(frozen=True)
class Followed:
    """What follows a layer.

    Attributes:
        gain: The gain taken.
        reason: Why, in words.
        activation: Name of the activation where one decides; ``linear`` where none
            follows.
    """

    gain: float
    reason: str
    activation: str


def following(graph: Graph, names: Sequence[str]) -> Followed:
    """Read the activation that follows a weight.

    Args:
        graph: Of the model.
        names: All names of the weight.

    Returns:
        The gain with its reason; gain 1 where nothing is known.
    """
    layers = [
        node
        for node in graph.layers
        if any(name in node.parameters.values() for name in names)
    ]
    if not layers:
        return Followed(1.0, "no layer of the graph uses it: taken as linear", "linear")
    found: list[Followed] = []
    for layer in layers:
        if layer.op.startswith(_RECURRENT):
            reason = f"gates of {layer.op}, no single activation: taken as linear"
            found.append(Followed(1.0, reason, "linear"))
            continue
        found += [_along(graph, link) for link in graph.out_of(layer)]
    return _agreed(list(dict.fromkeys(found)))


def _agreed(found: list[Followed]) -> Followed:
    if not found:
        return Followed(1.0, "nothing reads it: taken as linear", "linear")
    active = [way for way in found if way.activation != "linear"]
    gains = {way.gain for way in active}
    several = "; ".join(dict.fromkeys(way.reason for way in found))
    if len(gains) > 1:
        return Followed(1.0, f"ways differ ({several}): taken as linear", "linear")
    chosen = active[0] if active else found[0]
    if len(found) == 1:
        return chosen
    return Followed(chosen.gain, several, chosen.activation)


def _along(graph: Graph, link: Link) -> Followed:
    passed: list[str] = []
    for step, id_ in zip(link.through, link.path, strict=False):
        node = graph[id_]
        if node.kind in _PASSED or node.op in _PASSED_OPS:
            if node.kind in {"norm", "pool"}:
                passed.append(node.op)
            continue
        after = f" after {', '.join(passed)}" if passed else ""
        return _deciding(node, step, after)
    if link.reason is not None:
        return Followed(1.0, f"{link.reason}: taken as linear", "linear")
    kind = graph[link.target].kind
    words = {"output": "the output of the model", "unknown": "an unknown step"}
    what = words.get(kind, "no activation before the next layer")
    return Followed(1.0, f"{what}: taken as linear", "linear")


def _deciding(node: Node, step: str, after: str) -> Followed:
    if node.kind == "elementwise" and node.op in GAINS:
        try:
            gain = activation_gain(node.op, node.attributes)
        except (TypeError, DomainError):
            # An option that torch's function does not take.
            options = dict(node.attributes)
            reason = f"{node.op} with {options} has no gain here: taken as linear"
            return Followed(1.0, reason, "linear")
        return Followed(gain, f"{node.op} follows{after}", node.op)
    words = {
        "sum": "enters a sum of branches (residual)",
        "product": "is multiplied by another branch (a gate)",
        "attention": f"feeds {step}",
        "softmax": f"{node.op} follows",
        "matmul": "is multiplied by another activation",
    }
    what = words.get(node.kind, f"{node.op} follows, whose gain is not known")
    return Followed(1.0, f"{what}{after}: taken as linear", "linear")
