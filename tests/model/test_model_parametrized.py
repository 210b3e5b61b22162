"""Parametrised weights: the effective value, and a model left bit for bit as it was."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from spectrank.model import Skip, WeightMatrix, iter_weights


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


def pruned(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "weight", amount=0.5)


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[str, ...]]] = {
    "spectral_norm": (
        parametrizations.spectral_norm,
        ("parametrizations.weight.original",),
    ),
    "weight_norm": (
        parametrizations.weight_norm,
        (
            "parametrizations.weight.original0",
            "parametrizations.weight.original1",
        ),
    ),
    "orthogonal": (parametrizations.orthogonal, ("parametrizations.weight.original",)),
    "old_weight_norm": (old_weight_norm, ("weight_g", "weight_v")),
    "old_spectral_norm": (nn.utils.spectral_norm, ("weight_orig",)),
    "pruning": (pruned, ("weight_orig",)),
}


def net(wrapper: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(WRAPPERS[wrapper][0](nn.Linear(4, 5)), nn.Conv2d(2, 3, 2))


def by_name(model: nn.Module) -> dict[str, WeightMatrix | Skip]:
    return {row.name: row for row in iter_weights(model)}


def effective(model: nn.Module) -> WeightMatrix:
    row = by_name(model)["0.weight"]
    assert isinstance(row, WeightMatrix), row
    return row


def reference(model: nn.Module, wrapper: str) -> Tensor:
    """The matrix that the layer multiplies with in evaluation mode, from outside."""
    # A twin: deepcopy refuses the non-leaf weight that the older hooks leave behind.
    twin = net(wrapper)
    twin.load_state_dict(model.state_dict())
    layer = twin.eval()[0]
    return (layer(torch.eye(4)) - layer.bias).mT.detach()


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_matrix_is_the_one_the_layer_applies(wrapper: str, training: bool) -> None:
    model = net(wrapper).train(training)
    row = effective(model)
    assert (row.view, row.shape, row.layer_type) == ("linear", (5, 4), "Linear")
    assert not row.inferred
    assert row.dtype == torch.float32
    assert torch.allclose(row.tensor(), reference(model, wrapper), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_factors_are_skipped_by_name(wrapper: str) -> None:
    found = by_name(net(wrapper))
    for factor in WRAPPERS[wrapper][1]:
        row = found[f"0.{factor}"]
        assert isinstance(row, Skip)
        assert row.reason == "factor of the parametrised weight 0.weight"


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_tensor_and_the_weight_are_accounted_for(wrapper: str) -> None:
    model = net(wrapper)
    assert set(by_name(model)) == {*model.state_dict(), "0.weight"}


@pytest.mark.parametrize("wrapper", ["old_weight_norm", "old_spectral_norm", "pruning"])
def test_a_weight_left_stale_by_a_hook_is_recomputed(wrapper: str) -> None:
    model = net(wrapper)
    before = effective(model).tensor().clone()
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(torch.linspace(1, 3, parameter.numel()).view_as(parameter))
    after = effective(model).tensor()
    assert not torch.allclose(before, after)
    assert torch.allclose(after, reference(model, wrapper), rtol=1e-5, atol=1e-6)


def test_a_hook_on_a_recurrent_weight_names_its_factors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    model = nn.ModuleDict({"rnn": layer})
    found = by_name(model)
    for factor in ("g", "v"):
        row = found[f"rnn.weight_hh_l0_{factor}"]
        assert isinstance(row, Skip)
        assert row.reason == "factor of the parametrised weight rnn.weight_hh_l0"
    with torch.no_grad():
        layer.weight_hh_l0_g.mul_(2.0)
    v = layer.weight_hh_l0_v.detach()
    expected = layer.weight_hh_l0_g.detach() * v / v.norm(dim=1, keepdim=True)
    gates = list(iter_weights(model, select="rnn.weight_hh_l0"))
    assert [gate.key for gate in gates] == [
        f"rnn.weight_hh_l0[lstm.gate.{x}]" for x in "ifgo"
    ]
    stack = torch.cat([gate.tensor() for gate in gates])
    assert torch.allclose(stack, expected, rtol=1e-6, atol=1e-7)


def test_factors_are_known_by_the_hook_not_by_their_name() -> None:
    layer = nn.Module()
    layer.kernel = nn.Parameter(torch.randn(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer, "kernel")
    found = by_name(layer)
    assert isinstance(found["kernel"], WeightMatrix)
    for factor in ("kernel_g", "kernel_v"):
        row = found[factor]
        assert isinstance(row, Skip)
        assert row.reason == "factor of the parametrised weight kernel"


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything a computation could disturb, objects by identity, values as copies."""
    tensors = model.state_dict(keep_vars=True)
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "objects": {name: id(t) for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "grads": {n: p.grad for n, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "attributes": [list(vars(m)) for m in model.modules()],
        "random": torch.get_rng_state(),
        "grad_mode": torch.is_grad_enabled(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["values"].keys() == after["values"].keys()
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    for name, grad in before["grads"].items():
        assert grad is after["grads"][name], name
    assert torch.equal(before["random"], after["random"])
    for key in ("objects", "versions", "modes", "hooks", "attributes", "grad_mode"):
        assert before[key] == after[key], key


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_model_is_left_bit_for_bit_as_it_was(wrapper: str) -> None:
    model = net(wrapper).train()
    model[1].eval()  # a mixed mode must survive too
    model[0](torch.randn(3, 4)).sum().backward()
    model[0].register_forward_hook(lambda *args: None)
    before = state_of(model)
    for row in iter_weights(model):
        if isinstance(row, WeightMatrix):
            row.tensor()
    assert_same(before, state_of(model))


def test_torch_itself_does_disturb_the_model_in_training_mode() -> None:
    # The false friend: layer.weight alone runs a power iteration.
    model = net("spectral_norm").train()
    before = state_of(model)
    _ = model[0].weight
    buffer = "0.parametrizations.weight.0._u"
    after = state_of(model)
    assert not torch.equal(before["values"][buffer], after["values"][buffer])


class Rude(nn.Module):
    """Draws random numbers, counts its calls and writes into its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        self.seen = self.seen * 1
        return weight + torch.rand_like(weight)


def test_a_rude_parametrisation_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Conv2d(2, 3, 2))
    parametrize.register_parametrization(model[0], "weight", Rude())
    rude = model[0].parametrizations["weight"][0]
    calls = rude.calls
    before = state_of(model)
    effective(model).tensor()
    assert_same(before, state_of(model))
    assert rude.calls == calls


class Broken(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            return weight
        raise RuntimeError("no evaluation here")


def test_a_parametrisation_that_fails_is_a_skip_and_restores_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    parametrize.register_parametrization(model[0], "weight", Broken())
    before = state_of(model)
    found = by_name(model)
    assert_same(before, state_of(model))
    row = found["0.weight"]
    assert isinstance(row, Skip)
    assert row.reason == (
        "the parametrised weight cannot be computed: no evaluation here"
    )
    assert isinstance(found["1.weight"], WeightMatrix)


def test_the_cache_of_parametrize_is_neither_read_nor_filled() -> None:
    model = net("spectral_norm").train()
    with parametrize.cached():
        effective(model).tensor()
        assert not parametrize._cache
        cached = model[0].weight
        assert effective(model).tensor().data_ptr() != cached.data_ptr()


def test_a_parametrised_layer_registered_twice_is_measured_once() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(4, 5))
    found = by_name(nn.ModuleDict({"a": layer, "b": layer}))
    first, second = found["a.weight"], found["b.weight"]
    assert isinstance(first, WeightMatrix)
    assert isinstance(second, Skip)
    assert first.tied_to == ("b.weight",)
    assert second.reason == "tied to a.weight"


def test_an_unselected_weight_is_not_computed() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    parametrize.register_parametrization(model[0], "weight", Broken())
    assert [row.name for row in iter_weights(model, select="1.weight")] == ["1.weight"]


def test_a_factor_can_be_measured_on_request() -> None:
    model = net("spectral_norm")
    name = "0.parametrizations.weight.original"
    rows = list(iter_weights(model, select=name, views={name: "linear"}))
    assert isinstance(rows[0], WeightMatrix)
    assert torch.equal(
        rows[0].tensor(), model[0].parametrizations.weight.original.detach()
    )


class Mixed(nn.Module):
    """A parametrisation with a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, weight: Tensor) -> Tensor:
        return self.mix(weight)


def test_a_layer_inside_a_parametrisation_is_a_factor() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    parametrize.register_parametrization(model[0], "weight", Mixed())
    found = by_name(model)
    row = found["0.parametrizations.weight.0.mix.weight"]
    assert isinstance(row, Skip)
    assert row.reason == "factor of the parametrised weight 0.weight"
    matrices = [name for name, row in found.items() if isinstance(row, WeightMatrix)]
    assert matrices == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("layer", "name", "views"),
    [
        (
            lambda: parametrizations.orthogonal(
                nn.MultiheadAttention(4, 2), "in_proj_weight"
            ),
            "in_proj_weight",
            ["qkv.q", "qkv.k", "qkv.v"],
        ),
        (
            lambda: parametrizations.weight_norm(nn.GRUCell(3, 4), "weight_hh"),
            "weight_hh",
            ["gru.gate.r", "gru.gate.z", "gru.gate.n"],
        ),
        (
            lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, groups=2)).eval(),
            "weight",
            ["conv-grouped"],
        ),
        (
            lambda: nn.utils.spectral_norm(nn.ConvTranspose2d(4, 6, 3)).eval(),
            "weight",
            ["conv-transposed-unfolded"],
        ),
    ],
)
def test_a_computed_weight_is_cut_as_the_stored_one_would_be(
    layer: Callable[[], nn.Module], name: str, views: list[str]
) -> None:
    torch.manual_seed(0)
    module = layer()
    if isinstance(module, nn.ConvTranspose2d):
        module(torch.ones(1, 4, 3, 3))
    value = getattr(module, name).detach()
    rows = [r for r in iter_weights(module, select=name) if isinstance(r, WeightMatrix)]
    assert [row.view for row in rows] == views
    found = [row.tensor() for row in rows]
    if views == ["conv-grouped"]:
        blocks = value.flatten(1).chunk(2)
        assert torch.equal(found[0], torch.block_diag(*blocks))
    elif views == ["conv-transposed-unfolded"]:
        assert torch.allclose(found[0], value.flatten(1).T, atol=1e-7)
    else:
        assert torch.allclose(torch.cat(found), value, atol=1e-6)
