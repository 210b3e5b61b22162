"""Every use of a parameter that no rule sees is refused with its reason."""

import pytest
import torch
from ntk_models import brute_force
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.ntk.layerwise import layerwise_kernel, supported


class Net(nn.Module):
    """Holds layers; its forward is given."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class OwnForward(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.linear(input, 2 * self.weight, self.bias)


def tied_transpose(self, x):
    return F.linear(torch.tanh(self.a(x)), self.a.weight.T)


def penalised(self, x):
    return self.a(x) + self.a.bias**2


def mixed_samples(self, x):
    h = torch.tanh(self.a(x))
    return self.b(h + h.mean(0))


def broadcast_positions(self, x):
    return self.a(x) + self.b(torch.arange(3)).mean(0)


def with_embedding(self, x):
    return F.linear(self.a(x).mean(1), self.b.weight)


def linear_and_embedding():
    model = Net(
        lambda s, x: s.b(s.a(x).mean(1)), a=nn.Embedding(5, 3), b=nn.Linear(3, 5)
    )
    model.b.weight = model.a.weight
    return model


def grouped_and_dense():
    model = Net(
        lambda s, x: (s.a(x) + s.b(x[:, :2])).mean(2),
        a=nn.Conv1d(4, 4, 2, groups=2),
        b=nn.Conv1d(2, 4, 2),
    )
    model.b.weight = model.a.weight
    return model


def without_gradients(self, x):
    with torch.no_grad():
        h = self.a(x)
    return self.b(h)


X, WORDS = torch.randn(6, 3), torch.randint(5, (6, 4))
REFUSED = {
    "transposed weight": (
        lambda: Net(tied_transpose, a=nn.Linear(3, 4)),
        X,
        {"a.weight": "used without"},
    ),
    "bias on its own": (
        lambda: Net(penalised, a=nn.Linear(3, 4)),
        X,
        {"a.bias": "used without"},
    ),
    "samples that meet": (
        lambda: Net(mixed_samples, a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
        X,
        {"a.weight": "one part per sample", "a.bias": "one part per sample"},
    ),
    "no samples": (
        lambda: Net(broadcast_positions, a=nn.Linear(3, 4), b=nn.Embedding(3, 4)),
        X,
        {"b.weight": "one part per sample"},
    ),
    "tied to an embedding": (
        linear_and_embedding,
        WORDS,
        {"a.weight": "different ways"},
    ),
    "different groups": (
        grouped_and_dense,
        torch.randn(6, 4, 5),
        {"a.weight": "different ways"},
    ),
    "no call": (
        lambda: Net(lambda s, x: s.a(x), a=nn.Linear(3, 2), b=nn.Linear(3, 2)),
        X,
        {"b.weight": "not called", "b.bias": "not called"},
    ),
    "functional": (
        lambda: Net(
            lambda s, x: F.linear(x, s.a.weight), a=nn.Linear(3, 2, bias=False)
        ),
        X,
        {"a.weight": "not called"},
    ),
    "own forward": (
        lambda: OwnForward(3, 2),
        X,
        {"weight": "no rule for OwnForward", "bias": "no rule for OwnForward"},
    ),
    "no gradients": (
        lambda: Net(
            without_gradients, a=nn.Linear(3, 4, bias=False), b=nn.Linear(4, 2)
        ),
        X,
        {"a.weight": "without gradients"},
    ),
    "parametrised": (
        lambda: register_parametrization(nn.Linear(3, 2), "weight", Doubled()),
        X,
        {"parametrizations.weight.original": "parametrisation"},
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
        X,
        {f"parametrizations.weight.original{i}": "parametrisation" for i in (0, 1)},
    ),
    "pruned": (
        lambda: prune.l1_unstructured(nn.Linear(3, 2), "weight", 1),
        X,
        {"weight_orig": "not applied to the input as it is"},
    ),
    "max_norm": (
        lambda: Net(lambda s, x: s.a(x).mean(1), a=nn.Embedding(5, 2, max_norm=1e3)),
        WORDS,
        {"a.weight": "max_norm"},
    ),
    "frequencies": (
        lambda: Net(
            lambda s, x: s.a(x).mean(1), a=nn.Embedding(5, 2, scale_grad_by_freq=True)
        ),
        WORDS,
        {"a.weight": "scale_grad_by_freq"},
    ),
    "transposed convolution": (
        lambda: Net(
            lambda s, x: s.a(x[:, :, None]).mean(2), a=nn.ConvTranspose1d(3, 2, 2)
        ),
        X,
        {"a.weight": "no rule", "a.bias": "no rule"},
    ),
    "train mode": (
        lambda: nn.Sequential(nn.BatchNorm1d(3).train(), nn.Linear(3, 2)),
        X,
        {"0.weight": "couples the samples", "0.bias": "couples the samples"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_with_its_reason(name: str) -> None:
    torch.manual_seed(1)
    make, x, expected = REFUSED[name]
    model = make()
    rules = supported(model, x)
    assert list(rules) == [n for n, _ in model.named_parameters()]
    assert {n for n, rule in rules.items() if rule is None} == set(expected)
    assert rules.reasons.keys() == expected.keys()
    for parameter, words in expected.items():
        assert words in rules.reasons[parameter]


# Modes that make the model no function of one sample are refused as a whole.
@pytest.mark.parametrize(
    "name", sorted(REFUSED.keys() - {"train mode", "samples that meet"})
)
def test_the_other_parameters_keep_their_rules(name: str) -> None:
    torch.manual_seed(2)
    make, x, _ = REFUSED[name]
    model = make().double()
    x = x.double() if x.is_floating_point() else x
    names = [n for n, rule in supported(model, x).items() if rule]
    if not names:
        return
    found = layerwise_kernel(model, x, outputs="full", params=frozenset(names))
    torch.testing.assert_close(found, brute_force(model, x, params=names))


def test_bias_of_a_parametrised_layer_has_a_rule() -> None:
    layer = register_parametrization(nn.Linear(3, 2), "weight", Doubled())
    assert supported(layer, X)["bias"] == "linear"


def test_one_sample_is_enough_to_judge() -> None:
    assert None not in supported(nn.Linear(3, 2), X[:1]).values()
    assert supported(Net(tied_transpose, a=nn.Linear(3, 4)), X[:1])["a.weight"] is None


def test_a_parameter_without_a_rule_is_not_computed() -> None:
    model = Net(tied_transpose, a=nn.Linear(3, 4))
    with pytest.raises(DomainError, match=r"a\.weight has none as .*jacobian"):
        layerwise_kernel(model, X, outputs="full", params=frozenset({"a.weight"}))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.Dropout(0.5)])
def test_layers_in_training_mode_are_refused(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.Linear(3, 2)).train()
    with pytest.raises(DomainError, match=r"model\.eval"):
        layerwise_kernel(model, X, outputs="full", params=frozenset({"1.weight"}))


def test_unknown_and_empty_sets_of_parameters() -> None:
    with pytest.raises(UnknownNameError, match="'nothing' is none"):
        layerwise_kernel(
            nn.Linear(3, 2), X, outputs="full", params=frozenset({"nothing"})
        )
    with pytest.raises(DomainError, match="got none"):
        layerwise_kernel(nn.Linear(3, 2), X, outputs="full", params=frozenset())


def test_arguments_out_of_range() -> None:
    names = frozenset({"weight"})
    for option, value in (("block", 0), ("memory", 0)):
        with pytest.raises(DomainError, match=f"{option} is a"):
            layerwise_kernel(
                nn.Linear(3, 2), X, outputs="trace", params=names, **{option: value}
            )
    with pytest.raises(ShapeError, match=r"shape \(6, 6\)"):
        layerwise_kernel(
            nn.Linear(3, 2), X, outputs="trace", params=names, out=torch.empty(6, 5)
        )
    with pytest.raises(ShapeError, match=r"\(batch, classes\)"):
        layerwise_kernel(nn.Linear(3, 2), X[:, None], outputs="trace", params=names)
    with pytest.raises(DomainError, match="at least one sample"):
        supported(nn.Linear(3, 2), X[:0])


def test_a_layer_that_runs_for_some_inputs_only_is_refused_when_it_does_not() -> None:
    def sometimes(self, x):
        return self.a(x) if bool((x > 0).all()) else self.b(x)

    model = Net(sometimes, a=nn.Linear(3, 2), b=nn.Linear(3, 2))
    rules = supported(model, X.abs() + 1)
    with pytest.raises(DomainError, match="a did not run on one"):
        layerwise_kernel(
            model,
            -X.abs() - 1,
            outputs="full",
            params=frozenset({"a.weight"}),
            support=rules,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_is_zero_by_invariance_is_no_missed_use(dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 3),
    ).to(dtype)
    x = torch.randn(5, 1, 6, 6, dtype=dtype)
    found = supported(net, x)
    assert found["1.bias"] is not None
    assert found["1.weight"] is not None
