"""Random small nets on vectors: skips, sharing, frozen parameters, norms, products.

A net is a list of steps; a step reads earlier values by number and writes a new one.
"""

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

from invariance_oracles.case import Case, features
from invariance_oracles.zoo_conv import EPS

_HOMOGENEOUS = ("relu", "leaky", "abs", "square")
_OTHER = ("tanh", "gelu")
_FUNCTIONS = {
    "relu": torch.relu,
    "leaky": lambda x: nn.functional.leaky_relu(x, 0.2),
    "abs": torch.abs,
    "square": lambda x: torch.relu(x) ** 2,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "double": lambda x: 2.0 * x,
    "negate": lambda x: -x,
}


class Program(nn.Module):
    """Runs the steps; parameters are made by the steps that have some."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict()
        for number, (op, *rest) in enumerate(steps):
            if op == "linear":
                (_, n, m, bias, frozen) = rest
                layer = nn.Linear(n, m, bias=bias)
                if frozen == "weight":
                    layer.weight.requires_grad_(False)
                if frozen == "bias" and bias:
                    layer.bias.requires_grad_(False)
                self.layers[str(number)] = layer
            elif op == "layernorm":
                self.layers[str(number)] = nn.LayerNorm(rest[1], eps=EPS)
            elif op == "rmsnorm":
                self.layers[str(number)] = nn.RMSNorm(rest[1], eps=EPS)
            elif op == "scale":
                self.layers[str(number)] = Scale(rest[1])

    def forward(self, x):
        values = [x]
        for number, (op, *rest) in enumerate(self.steps):
            if op in {"linear", "layernorm", "rmsnorm", "scale"}:
                value = self.layers[str(number)](values[rest[0]])
            elif op == "again":
                value = self.layers[str(rest[1])](values[rest[0]])
            elif op == "add":
                value = values[rest[0]] + values[rest[1]]
            elif op == "multiply":
                value = values[rest[0]] * values[rest[1]]
            elif op == "concatenate":
                value = torch.cat([values[rest[0]], values[rest[1]]], -1)
            elif op == "dropout":
                value = nn.functional.dropout(values[rest[0]], 0.5, self.training)
            else:
                value = _FUNCTIONS[op](values[rest[0]])
            values.append(value)
        return values[-1]


class Scale(nn.Module):
    """A learned number per feature."""

    def __init__(self, size):
        super().__init__()
        self.d = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.d * x


def reached(steps):
    """Leave out steps that do not reach the output: their parameters never move."""
    sources = {"add": 2, "multiply": 2, "concatenate": 2}
    keep, layers = {len(steps)}, set()
    for number in range(len(steps), 0, -1):
        op, *rest = steps[number - 1]
        if number in keep:
            keep |= set(rest[: sources.get(op, 1)])
            layers |= {rest[1]} if op == "again" else set()
    # A shared layer whose first use is lost stands where it is used again.
    assume(all(number + 1 in keep for number in layers))
    new = {0: 0}
    kept = []
    for number, (op, *rest) in enumerate(steps, start=1):
        if number not in keep:
            continue
        values = [new[v] for v in rest[: sources.get(op, 1)]]
        other = rest[sources.get(op, 1) :]
        if op == "again":
            other = [new[other[0] + 1] - 1]
        kept.append((op, *values, *other))
        new[number] = len(kept)
    return tuple(kept)


@st.composite
def dense_nets(draw, most=34):
    """A case without a count; at most so many learned parameters."""
    steps, widths = [], [2]

    def push(width, *step):
        steps.append(step)
        widths.append(width)

    def source():
        # Mostly the last value, so that nets are deep.
        last = len(widths) - 1
        return last if draw(st.integers(0, 3)) else draw(st.integers(0, last))

    def linear(m, source_):
        frozen = draw(st.sampled_from([None] * 8 + ["weight", "bias"]))
        bias = draw(st.booleans())
        push(m, "linear", source_, widths[source_], m, bias, frozen)

    linear(draw(st.sampled_from([2, 3])), 0)
    for _ in range(draw(st.integers(1, 6))):
        op = draw(
            st.sampled_from(
                [*_HOMOGENEOUS, "relu", "relu", *_OTHER, "double", "negate"]
                + ["linear"] * 4
                + ["add"] * 3
                + ["again", "again", "scale", "multiply", "concatenate", "dropout"]
                + ["layernorm", "rmsnorm"]
            )
        )
        s = source()
        if op == "linear":
            linear(draw(st.sampled_from([2, 3])), s)
        elif op in {"add", "multiply", "concatenate"}:
            others = [
                k
                for k, width in enumerate(widths)
                if k != s and (width == widths[s] or op == "concatenate")
            ]
            if others:
                t = draw(st.sampled_from(others))
                width = widths[s] + (widths[t] if op == "concatenate" else 0)
                if width <= 6:
                    push(width, op, s, t)
        elif op == "again":
            fitting = [
                k
                for k, step in enumerate(steps)
                if step[0] == "linear" and step[2] == widths[s]
            ]
            if fitting:
                k = draw(st.sampled_from(fitting))
                push(steps[k][3], "again", s, k)
        elif op in {"layernorm", "rmsnorm"}:
            # Two features have one direction left, or none: special laws. So has a norm
            # of units that are all dead.
            if widths[s] >= 3 and "relu" not in [step[0] for step in steps]:
                push(widths[s], op, s, widths[s])
        elif op == "negate" and {"relu", "abs", "square"} & {k[0] for k in steps}:
            continue  # units that are never positive are dead for all data
        elif op == "scale":
            push(widths[s], op, s, widths[s])
        else:
            push(widths[s], op, s)
    linear(2, len(widths) - 1)
    program = reached(steps)
    learned = [p for p in Program(program).parameters() if p.requires_grad]
    assume(0 < sum(p.numel() for p in learned) <= most)
    text = "; ".join(" ".join(map(str, step)) for step in program)
    return Case(text, lambda: Program(program), features(2, batch=4), -1)
