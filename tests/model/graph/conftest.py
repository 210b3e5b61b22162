"""Two oracles of a graph that share no code with it.

``rerun`` computes a model's outputs from the nodes alone: wrong attributes, a wrong
order of inputs or a lost step change the numbers. ``direct_links`` cuts a running
model at the outputs of its layers and asks autograd what still reaches whom.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.model.graph import Graph, Node, graph


def _linear(node: Node, x: list[Tensor], p: Mapping[str, Tensor]) -> Tensor:
    weight = p["weight"]
    if node.matrices and node.matrices[0].view == "linear-transposed":
        weight = weight.mT
    if node.matrices and node.matrices[0].view == "conv-unfolded":
        weight = weight.flatten(1)
    if node.matrices and node.matrices[0].rows is not None:
        weight = weight[slice(*node.matrices[0].rows)]
    bias = p.get("bias")
    if bias is not None:
        rows = node.attributes.get("parts", {}).get("bias", {}).get("rows")
        bias = bias if rows is None else bias[slice(*rows)]
        bias = bias.reshape(-1)
    axis = node.attributes.get("axis", -1)
    result = F.linear(x[0].movedim(axis, -1), weight, bias).movedim(-1, axis)
    return result.squeeze(-1) if weight.ndim == 1 else result


def _conv(node: Node, x: list[Tensor], p: Mapping[str, Tensor]) -> Tensor:
    facts = {k: v for k, v in node.attributes.items() if k != "kernel_size"}
    return getattr(F, node.op)(x[0], p["weight"], p.get("bias"), **facts)


def _recurrent(node: Node, x: list[Tensor], p: Mapping[str, Tensor]) -> Any:
    facts = dict(node.attributes)
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[node.op](
        p["weight_ih_l0"].shape[1],
        p["weight_hh_l0"].shape[1],
        facts.pop("num_layers"),
        **facts,
    ).to(x[0].dtype)
    layer.load_state_dict(dict(p))
    output, states = layer(x[0], *x[1:])
    return [output, *(states if isinstance(states, tuple) else [states])]


def _norm(node: Node, x: list[Tensor], p: Mapping[str, Tensor], state: Any) -> Tensor:
    facts, weight, bias = dict(node.attributes), p.get("weight"), p.get("bias")
    if node.op == "batch_norm":
        running = [state.get(f"{node.name}.running_{s}") for s in ("mean", "var")]
        return F.batch_norm(x[0], *[r.clone() for r in running], weight, bias, **facts)
    if node.op == "instance_norm":
        assert facts["training"] is True
        return F.instance_norm(x[0], None, None, weight, bias, eps=facts["eps"])
    if node.op == "group_norm":
        return F.group_norm(x[0], facts["num_groups"], weight, bias, facts["eps"])
    if node.op == "rms_norm":
        eps = facts.get("eps")
        return F.rms_norm(x[0], facts["normalized_shape"], weight, eps)
    return F.layer_norm(x[0], facts["normalized_shape"], weight, bias, facts["eps"])


def _reshape(node: Node, x: list[Any]) -> Any:
    facts, shape = node.attributes, node.shape
    assert shape is not None or node.op == "getitem"
    if node.op == "getitem":
        return x[0][facts["index"]]
    if node.op == "select":
        return x[0].select(facts["dim"], facts["index"])
    if node.op == "slice":
        index: list[Any] = [slice(None)] * x[0].ndim
        index[facts["dim"]] = slice(facts["start"], facts["stop"], facts.get("step", 1))
        return x[0][tuple(index)]
    if node.op in {"reshape", "flatten"}:
        return x[0].reshape(shape)
    if node.op == "permute":
        return x[0].permute(facts["dims"])
    if node.op == "expand":
        return x[0].expand(shape)
    if node.op == "cat":
        return torch.cat(x, facts["dim"])
    if node.op == "stack":
        return torch.stack(x, facts["dim"])
    if node.op == "pad":
        return F.pad(x[0], facts["pad"], facts["mode"], facts.get("value", 0.0))
    raise NotImplementedError(node)


def _elementwise(node: Node, x: list[Tensor], p: Mapping[str, Tensor]) -> Tensor:
    facts: dict[str, Any] = dict(node.attributes)
    numbers = {
        "mul": lambda: x[0] * facts["factor"],
        "div": lambda: x[0] / facts["divisor"],
        "add": lambda: facts.get("factor", 1) * x[0] + facts["amount"],
        "pow": lambda: x[0] ** facts["exponent"],
        "cast": lambda: x[0].to(getattr(torch, facts["dtype"])),
        "prelu": lambda: F.prelu(x[0], p["slope"]),
        "detach": lambda: x[0].detach(),
        "quick_gelu": lambda: x[0] * torch.sigmoid(1.702 * x[0]),
        "index": lambda: x[0],
    }
    if node.op in numbers:
        return numbers[node.op]()
    home = F if hasattr(F, node.op) else torch
    return getattr(home, node.op)(*x, **facts)


def _pool(node: Node, x: list[Tensor]) -> Tensor:
    facts = dict(node.attributes)
    if node.op in {"mean", "sum", "amax", "amin"}:
        return getattr(torch, node.op)(x[0], **facts)
    return getattr(F, node.op)(x[0], **facts)


def _evaluate(
    node: Node, x: list[Any], p: dict[str, Tensor], state: Mapping[str, Tensor]
) -> Any:
    if node.kind == "layer":
        if node.op == "embedding":
            padding = node.attributes.get("padding_idx")
            return F.embedding(x[0], p["weight"], padding)
        if node.op.startswith("conv"):
            return _conv(node, x, p)
        if node.op in {"lstm", "gru"}:
            return _recurrent(node, x, p)
        if node.op == "bilinear":
            return F.bilinear(*x, p["weight"], p.get("bias"))
        return _linear(node, x, p)
    if node.kind in {"scale", "shift"}:
        vector = p[node.kind]
        rows = node.attributes.get("rows")
        vector = vector if rows is None else vector[slice(*rows)]
        sizes = [1] * x[0].ndim
        for axis in node.attributes["axes"]:
            sizes[axis] = x[0].shape[axis]
        vector = vector.reshape(sizes)
        sign = node.attributes.get("coefficient", 1)
        return x[0] * vector if node.kind == "scale" else x[0] + sign * vector
    if node.kind == "sum":
        first, second = node.attributes.get("coefficients", (1, 1))
        return first * x[0] + second * x[1]
    if node.kind == "product":
        if node.op == "glu":
            return F.glu(x[0], node.attributes["dim"])
        return x[0] / x[1] if node.op == "div" else x[0] * x[1]
    if node.kind == "norm":
        return _norm(node, x, p, state)
    if node.kind == "reshape":
        return _reshape(node, x)
    if node.kind == "pool":
        return _pool(node, x)
    if node.kind == "elementwise":
        return _elementwise(node, x, p)
    if node.kind == "softmax":
        return getattr(torch, node.op)(x[0], node.attributes["dim"])
    if node.kind == "matmul":
        return x[0] @ x[1]
    if node.kind == "attention":
        return F.scaled_dot_product_attention(*x, **node.attributes)
    raise NotImplementedError(node)


@pytest.fixture
def rerun() -> Callable[..., list[Tensor]]:
    """Outputs of a model computed from the nodes of its graph."""

    def run(
        found: Graph,
        model: nn.Module,
        inputs: Sequence[Tensor],
        constants: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        state = dict(model.state_dict())
        for name, parameter in model.named_parameters(remove_duplicate=False):
            state[name] = parameter.detach()
        for node in found.layers:
            owner, _, local = (
                node.parameters["weight"].rpartition(".")
                if ("weight" in node.parameters)
                else ("", "", "")
            )
            if local and f"{owner}.{local}" not in state:
                weight = getattr(model.get_submodule(owner), local)
                state[f"{owner}.{local}"] = weight.detach()
        values: dict[str, Any] = {}
        given, filled = iter(inputs), iter(constants)
        outputs = []
        for node in found.nodes:
            x = [values[item] for item in node.inputs]
            p = {role: state[name] for role, name in node.parameters.items()}
            if node.kind == "input":
                values[node.id] = next(given)
            elif node.kind == "constant":
                buffer = state.get(node.name)
                learned = p.get("value")
                if learned is not None:
                    assert node.shape is not None
                    values[node.id] = learned.expand(node.shape)
                else:
                    values[node.id] = next(filled) if buffer is None else buffer
            elif node.kind == "output":
                outputs.append(x[0])
            else:
                values[node.id] = _evaluate(node, x, p, state)
                got = getattr(values[node.id], "shape", None)
                assert got is None or node.shape is None or got == node.shape, node
        return outputs

    return run


@pytest.fixture
def direct_links() -> Callable[..., set[tuple[str, str]]]:
    """Pairs of layers, by module path, of which the first feeds the second directly."""

    def find(
        model: nn.Module, layers: Sequence[str], *args: Any, **kwargs: Any
    ) -> set[tuple[str, str]]:
        leaves: dict[str, Tensor] = {}
        reads: dict[str, Tensor] = {}
        handles = []

        def hook(name: str) -> Any:
            def run(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
                reads[name] = inputs[0]
                leaves[name] = output.detach().requires_grad_()
                return leaves[name] * 1.0

            return run

        for name in layers:
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(hook(name)))
        try:
            result = model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        final = result[0] if isinstance(result, tuple | list) else result
        reads["output"] = getattr(final, "logits", final)
        found = set()
        generator = torch.Generator().manual_seed(1)
        for target, value in reads.items():
            if not value.requires_grad:
                continue
            weights = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            names = list(leaves)
            grads = torch.autograd.grad(
                (value * weights).sum(),
                [leaves[name] for name in names],
                allow_unused=True,
                retain_graph=True,
            )
            found |= {
                (name, target)
                for name, grad in zip(names, grads, strict=True)
                if grad is not None and bool((grad != 0).any())
            }
        return found

    return find


@pytest.fixture
def same(rerun: Callable[..., list[Tensor]]) -> Callable[..., Graph]:
    """The graph of a model, after its nodes gave the model's one output."""

    def check(model: nn.Module, *inputs: Tensor) -> Graph:
        found = graph(model, inputs)
        assert found.unknowns == ()
        expected = model(*inputs)
        [got] = rerun(found, model, list(inputs))
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)
        return found

    return check


@pytest.fixture
def check_direct(direct_links: Callable[..., set[tuple[str, str]]]) -> Any:
    """Compare the links between layers with those that autograd finds."""

    def check(found: Graph, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d)
        paths = [
            path
            for path, module in model.named_modules()
            if isinstance(module, kinds) or type(module).__name__ == "Conv1D"
        ]
        got = set()
        for link in found.links:
            source, target = found[link.source], found[link.target]
            if source.kind == "layer" and target.kind in {"layer", "output"}:
                end = target.name if target.kind == "layer" else "output"
                got.add((source.name, end))
        assert got == direct_links(model, paths, *args, **kwargs)

    return check


@pytest.fixture
def named_links() -> Callable[..., list[tuple[str, str, tuple[str, ...]]]]:
    """Links of a graph as (source name, target name, steps), moves left out."""

    def named(
        found: Graph, *, without: Sequence[str] = ()
    ) -> list[tuple[str, str, tuple[str, ...]]]:
        return [
            (
                found[link.source].name,
                found[link.target].name,
                tuple(step for step in link.through if step not in without),
            )
            for link in found.links
        ]

    return named
