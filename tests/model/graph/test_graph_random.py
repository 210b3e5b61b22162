"""Random nets of known wiring: links, dependencies and values."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spectrank.model.graph import Graph, graph

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
WIDTH = 4


@dataclass(frozen=True)
class Step:
    """One value of a random net: a layer, an activation, or a sum of earlier ones."""

    kind: str
    inputs: tuple[int, ...]
    module: int = -1


class Net(nn.Module):
    """Runs a plan; value 0 is the input, the last value is the output."""

    def __init__(self, plan: list[Step], modules: int) -> None:
        super().__init__()
        self.plan = plan
        self.maps = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(modules)])

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.plan:
            given_ = [values[i] for i in step.inputs]
            if step.kind == "layer":
                values.append(self.maps[step.module](given_[0]))
            elif step.kind == "sum":
                values.append(given_[0] + given_[1])
            else:
                values.append(ACTIVATIONS[step.kind](given_[0]))
        return values[-1]


@st.composite
def plans(draw: Any) -> tuple[list[Step], int]:
    plan: list[Step] = []
    modules = draw(st.integers(1, 4))
    for i in range(draw(st.integers(2, 9))):
        kind = draw(st.sampled_from(["layer", "layer", "sum", *ACTIVATIONS]))
        places = st.integers(max(0, i - 3), i)
        if kind == "sum":
            plan.append(Step(kind, (draw(places), draw(places))))
        elif kind == "layer":
            module = draw(st.integers(0, modules - 1))
            plan.append(Step(kind, (draw(places),), module))
        else:
            plan.append(Step(kind, (draw(places),)))
    return plan, modules


def expected_links(plan: list[Step]) -> set[tuple[str, str, tuple[str, ...]]]:
    """Every way from a layer or the input to the next, by the plan alone.

    Layers are named by module and number of the step, so that one used twice counts
    as two.
    """
    names = ["x", *(f"maps.{s.module}" for s in plan)]
    ways: list[set[tuple[int, tuple[str, ...]]]] = [{(0, ())}]
    found = set()
    needed = {len(plan)}
    for i in range(len(plan), 0, -1):
        if i in needed:
            needed |= set(plan[i - 1].inputs)
    for i, step in enumerate(plan, 1):
        arriving = {way for j in step.inputs for way in ways[j]}
        if step.kind == "layer":
            if i in needed:
                found |= {((s, t), (i, ())) for s, t in arriving}
            ways.append({(i, ())})
        else:
            ways.append({(s, (*t, step.kind)) for s, t in arriving})
    links = {(names[s], names[i], t) for (s, t), (i, _) in found}
    return links | {(names[s], "output", t) for s, t in ways[-1]}


def plain(step: str) -> str:
    return step.partition(":")[0]


def found_links(found: Graph) -> set[tuple[str, str, tuple[str, ...]]]:
    return {
        (
            found[link.source].name,
            found[link.target].name,
            tuple(plain(step) for step in link.through),
        )
        for link in found.links
    }


@given(plans())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_links_of_a_random_net_are_those_of_its_plan(
    made: tuple[list[Step], int],
) -> None:
    plan, modules = made
    found = graph(Net(plan, modules), torch.randn(3, WIDTH))
    assert found.unknowns == ()
    assert found_links(found) == expected_links(plan)
    uses = [step.module for i, step in enumerate(plan, 1) if i in needed_of(plan)]
    used = {module for module in uses if module >= 0}
    unused = {int(name.split(".")[1]) for name in found.unused}
    assert unused == set(range(modules)) - used
    twice = {f"maps.{m}.weight" for m in used if uses.count(m) > 1}
    assert {name for name in found.reused if name.endswith("weight")} == twice


def needed_of(plan: list[Step]) -> set[int]:
    needed = {len(plan)}
    for i in range(len(plan), 0, -1):
        if i in needed:
            needed |= set(plan[i - 1].inputs)
    return needed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_perturbed_layer_changes_exactly_its_descendants(seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    plan, layers = [], 0
    for i in range(12):
        kind = ["layer", "layer", "sum", "tanh"][draw(0, 4)]
        inputs = tuple(draw(max(0, i - 4), i + 1) for _ in range(1 + (kind == "sum")))
        plan.append(Step(kind, inputs, layers if kind == "layer" else -1))
        layers += kind == "layer"
    plan.append(Step("sum", (11, 12)))
    model = Net(plan, layers).double()
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    found = graph(model, x)
    by_name = {node.name: node.id for node in found.layers}
    reach = descendants(found)
    for name, id_ in by_name.items():
        changed = set()
        base, moved = inputs_of(model, x, None), inputs_of(model, x, name)
        for other, value in base.items():
            if not torch.equal(value, moved[other]):
                changed.add(other)
        expected = {found[i].name for i in reach[id_]}
        assert changed & (by_name.keys() | {"output"}) == expected


def descendants(found: Graph) -> dict[str, set[str]]:
    after: dict[str, set[str]] = {}
    for node in reversed(found.nodes):
        direct = {link.target for link in found.out_of(node)}
        after[node.id] = direct.union(*(after[i] for i in direct))
    return after


def inputs_of(model: Net, x: Tensor, moved: str | None) -> dict[str, Tensor]:
    """What each layer reads, after the outputs of one of them were moved."""
    reads: dict[str, Tensor] = {}
    handles = []
    for i, module in enumerate(model.maps):

        def hook(_: Any, args: Any, output: Tensor, name: str = f"maps.{i}") -> Tensor:
            reads[name] = args[0]
            return output + 1.0 if name == moved else output

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        reads["output"] = model(x)
    for handle in handles:
        handle.remove()
    return reads


class Doubling(nn.Module):
    """2**n ways from the input to the output."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.map, self.times = nn.Linear(WIDTH, WIDTH), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + torch.sin(x)
        return self.map(x)


def test_ways_that_double_at_every_step_are_counted_not_listed() -> None:
    few = graph(Doubling(5), torch.randn(2, WIDTH))
    assert len(few.into(few.layers[0])) == 32
    many = graph(Doubling(40), torch.randn(2, WIDTH))
    assert 0 < len(many.into(many.layers[0])) <= 32
    for link in many.into(many.layers[0]):
        assert link.through[0] == "..."
        assert link.reason is not None
        assert "more than 32 ways" in link.reason
        assert many.columns(link) is None
    assert len(many.signature()) == 64
