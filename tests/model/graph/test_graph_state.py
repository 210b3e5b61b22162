"""The model is left bit for bit as it was, and what cannot be read says why."""

import copy
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.model.graph import graph


class Restless(nn.Module):
    """Changes everything a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
            nn.BatchNorm1d(4),
            nn.Dropout(0.5),
        )
        self.old = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.register_buffer("calls", torch.zeros(1))
        self.cache: list[Tensor] = []
        self.facts = {"seen": 0}
        self.last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache.append(x)
        self.facts["seen"] += 1
        self.last = x
        torch.manual_seed(3)
        random.random()
        np.random.rand()  # noqa: NPY002
        y = self.old(self.net(x)) + torch.randn(4)
        self.rnn.flatten_parameters()
        return self.rnn(y[:, None])[0]


def snapshot(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        state = dict(vars(module))
        for key, value in state.items():
            if isinstance(value, dict | OrderedDict):
                found[f"{path}:{key}"] = [(k, id(v)) for k, v in value.items()]
            elif isinstance(value, list):
                found[f"{path}:{key}"] = [id(v) for v in value]
            elif isinstance(value, Tensor):
                found[f"{path}:{key}"] = id(value)
            else:
                found[f"{path}:{key}"] = repr(value)
        found[f"{path}:keys"] = list(state)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
        found[f"tensor:{name}"] = (
            tensor.detach().tolist(),
            tensor.requires_grad,
            tensor._version,
            grad,
        )
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad_enabled", [True, False])
def test_nothing_of_the_model_changes(training: bool, grad_enabled: bool) -> None:
    torch.manual_seed(0)
    model = Restless().train(training)
    model(torch.randn(3, 4)).sum().backward()
    model.net[0].bias.requires_grad_(False)
    seen: list[str] = []
    model.net.register_forward_hook(lambda *_: seen.append("hook"))
    before = snapshot(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    fast = torch.backends.mha.get_fastpath_enabled()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    with torch.set_grad_enabled(grad_enabled):
        found = graph(model, x)
        assert torch.is_grad_enabled() is grad_enabled
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_equal(np.random.get_state()[1], states[2][1])  # noqa: NPY002
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert torch.equal(x, kept)
    assert found.frozen == ("net.0.bias",)
    names = {node.op for node in found.nodes}
    assert ("dropout" in names) is training


def test_the_fused_path_of_attention_is_off_while_the_model_runs() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (2.0 if torch.backends.mha.get_fastpath_enabled() else 3.0)

    found = graph(Asks(), torch.randn(2))
    assert found.nodes[1].attributes == {"factor": 3.0}


def test_nothing_of_the_model_changes_when_it_cannot_be_traced() -> None:
    class Refused(Restless):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y if y.sum() > 0 else -y

    torch.manual_seed(0)
    model = Refused()
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(DomainError):
        graph(model, torch.zeros(3, 4))
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else x


class TakesOneMapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.fc(batch["x"])


def test_a_forward_of_one_mapping_is_told_how_to_pass_it() -> None:
    batch = {"x": torch.ones(1, 3)}
    with pytest.raises(DomainError, match=r"pass \(\{\.\.\.\},\)"):
        graph(TakesOneMapping(), batch)
    assert [layer.name for layer in graph(TakesOneMapping(), (batch,)).layers] == ["fc"]


def test_a_refused_model_gives_torchs_reason_and_the_ways_out(
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = r"refused Branching: .*data-dependent.*example_input.*wiring="
    with pytest.raises(DomainError, match=message):
        graph(Branching(), torch.randn(2, 4))
    assert capfd.readouterr() == ("", "")


def test_an_error_in_forward_is_the_reason() -> None:
    with pytest.raises(DomainError, match=r"refused Linear: .*2, 5"):
        graph(nn.Linear(4, 2), torch.randn(2, 5))


def test_a_model_that_returns_no_tensor_has_no_graph() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "done"

    with pytest.raises(DomainError, match="returned none; return them"):
        graph(Silent(), torch.randn(2))


def test_types_are_checked_at_the_edge() -> None:
    with pytest.raises(ArgumentTypeError, match="a state dict does not say"):
        graph({"weight": torch.ones(2, 2)}, torch.ones(2))  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"got list; .*pass \(argument,\)"):
        graph(nn.Linear(2, 2), [torch.ones(2)])


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(
        self, first: Tensor, scale: float, batch: dict[str, Any], *, last: Any = None
    ) -> dict[str, Any]:
        y = self.a(first) * scale + self.b(batch["deep"][0])
        return {"y": y, "more": [self.c(last), None, 3], "text": "t"}


def test_inputs_and_outputs_have_the_names_of_the_call() -> None:
    torch.manual_seed(0)
    model = Named()
    one, two, three = torch.randn(3, 2, 4).unbind()
    found = graph(model, (one, 2.0, {"deep": [two]}), kwargs={"last": three})
    links = {(found[a.source].name, found[a.target].name) for a in found.links}
    assert links == {
        ("first", "a"),
        ("batch.deep.0", "b"),
        ("last", "c"),
        ("a", "y"),
        ("b", "y"),
        ("c", "more.0"),
    }
    again = graph(
        model,
        {"last": three, "scale": 2.0, "first": one, "batch": {"deep": (two,)}},
    )
    assert again.signature() == found.signature()


def test_a_tensor_passed_twice_is_one_input() -> None:
    x = torch.randn(2, 3, 8)
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    found = graph(model, (x, x, x))
    inputs = [node for node in found.nodes if node.kind == "input"]
    assert [node.name for node in inputs] == ["query"]
    assert inputs[0].note == "passed again as key, value"
    apart = graph(model, (x, x.clone(), x.clone()))
    assert [n.name for n in apart.nodes if n.kind == "input"] == [
        "query",
        "key",
        "value",
    ]
    assert len(apart.layers) == 4


def test_only_shapes_and_dtypes_of_the_input_count() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    nothing = graph(model, torch.full((2, 4), float("nan")))
    assert nothing.signature() == graph(model, torch.randn(2, 4)).signature()


def test_a_model_in_half_precision_or_double_has_the_same_structure() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2))
    base = graph(model, torch.randn(2, 4)).signature()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        twin = copy.deepcopy(model).to(dtype)
        assert graph(twin, torch.randn(2, 4).to(dtype)).signature() == base


def test_a_model_without_values_has_a_graph() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        x = torch.randn(2, 4)
    assert len(graph(model, x).layers) == 2
