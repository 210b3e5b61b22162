"""Which modules are captured: names, patterns, classes, ties, wrappers."""

import warnings

import pytest
import torch
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    SpectrankWarning,
    UnknownNameError,
)
from spectrank.model.capture import capture

N, T, D, C = 4, 5, 8, 3


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def labels(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(C, (N,), generator=generator)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build().double().eval()


def close(a, b):
    return torch.allclose(a, b, rtol=0.0, atol=10 * FLOAT64)


def first_batch(model, batch, layers=None, **options):
    with capture(model, layers, **options) as taps:
        return next(taps.over([batch]))


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, D)
        self.norm = nn.LayerNorm(D)
        self.block = nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D), nn.ReLU())
        self.unused = nn.Linear(D, D)
        self.tied = nn.Linear(D, D)
        self.tied.weight = self.unused.weight
        self.head = nn.Linear(D, C)
        self.alias = self.head

    def forward(self, x):
        h = self.tied(self.block(self.norm(self.embed(x))))
        return self.alias(h)


def indices():
    return torch.tensor([0, 3, 3, 8])


def test_by_default_weight_layers_are_captured_and_norms_are_not():
    taps = capture(Zoo())
    assert taps.layers == ("embed", "block.0", "unused", "tied", "head")
    # Its scale has two axes and is no weight all the same.
    model = nn.Sequential(nn.LayerNorm((3, 4)), nn.Linear(4, 2))
    assert capture(model).layers == ("1",)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("block.*", ("block.0", "block.1")),
        (["*norm*", "head"], ("norm", "head")),
        ("block.2", ("block.2",)),
        ("block", ("block",)),
        (nn.LayerNorm, ("norm",)),
        ([nn.BatchNorm1d, "block.0", "block.0"], ("block.0", "block.1")),
        ("alias", ("alias",)),
    ],
)
def test_layers_are_chosen_by_name_pattern_or_class(layers, expected):
    taps = capture(Zoo().eval(), layers)
    assert taps.layers == expected
    with taps:
        assert next(taps.over([indices()])).layers == expected


def test_layers_that_never_ran_are_named():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with capture(Zoo()) as taps:
            list(taps.over([indices()]))
            assert taps.unseen == ("unused",)
    (warning,) = caught
    assert warning.category is SpectrankWarning
    assert "layers that never ran: unused;" in str(warning.message)
    # A pass that did not begin says nothing.
    with capture(Zoo()):
        pass


def test_shared_weights_under_two_modules_are_separate_layers_that_are_tied():
    batch = first_batch(Zoo(), indices(), "tied")
    assert batch["tied"].tied_to == ("unused",)
    assert first_batch(Zoo(), indices(), "head")["head"].tied_to == ()


def test_a_layer_used_twice_must_be_read_by_calls():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    with capture(model) as taps:
        batch = next(taps.over([torch.ones(2, 3)]))
        with pytest.raises(
            UnknownNameError, match=r"2 times; read batch\.calls\('0'\)"
        ):
            batch["0"]
        assert [seen.call for seen in batch.calls("0")] == [0, 1]
        with pytest.raises(UnknownNameError, match="was captured and ran, this batch"):
            batch["1"]
        assert batch.calls("1") == ()


def test_what_layers_may_not_be():
    with pytest.raises(UnknownNameError, match=r"'haed' is none; there are head"):
        capture(Zoo(), "haed")
    with pytest.raises(UnknownNameError, match="Conv2d is none"):
        capture(Zoo(), nn.Conv2d)
    with pytest.raises(ArgumentTypeError, match="names, glob patterns or module class"):
        capture(Zoo(), [3])
    with pytest.raises(DomainError, match="no leaf module with a weight"):
        capture(nn.ReLU())
    with pytest.raises(DomainError, match="run it on one batch first"):
        capture(nn.LazyLinear(3))
    with pytest.raises(ArgumentTypeError, match=r"must be a torch\.nn\.Module, got Pa"):
        capture(nn.Parameter(torch.ones(2)))


def test_a_model_of_its_own_weight_is_a_layer():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 2))
            self.gain = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x @ self.weight.T

    model = nn.Sequential(Own(), nn.Linear(3, 2))
    assert capture(model).layers == ("0", "1")


def test_a_parametrised_layer_is_a_layer_and_its_factors_are_not():
    model = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)))
    assert capture(model).layers == ("0",)
    seen = first_batch(model, torch.ones(2, 3))["0"]
    assert torch.equal(seen.outputs, model(torch.ones(2, 3)).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_wrappers_are_run_as_the_module_they_wrap():
    inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.ones(2, 3)
    expected = first_batch(inner, x)["2"].outputs
    wrapped = nn.DataParallel(inner)
    assert torch.equal(first_batch(wrapped, x)["module.2"].outputs, expected)
    compiled = torch.compile(inner, backend="eager")
    assert torch.equal(first_batch(compiled, x)["_orig_mod.2"].outputs, expected)
    # A graph compiled before, in the same modes and without hooks, would be run again
    # without hooks.
    inner.eval()
    part = nn.Sequential(torch.compile(inner, backend="eager"))
    with torch.no_grad():
        part(x)
    assert torch.equal(first_batch(part, x)["0._orig_mod.2"].outputs, expected)
    inner.compile(backend="eager")
    with torch.no_grad():
        inner(x)
    assert torch.equal(first_batch(inner, x)["2"].outputs, expected)
    assert inner._compiled_call_impl is not None


def test_user_hooks_run_and_the_layer_is_recorded_before_them():
    layer = nn.Linear(3, 2)
    handle = layer.register_forward_hook(lambda m, a, o: o * 10.0)
    layer.register_forward_pre_hook(lambda m, a: (a[0] + 1.0,))
    x = torch.ones(2, 3)
    batch = first_batch(layer, (x, torch.tensor([0, 1])), "", gradients="logits")
    seen = batch[""]
    assert torch.equal(seen.inputs, x + 1.0)
    assert torch.equal(
        seen.outputs, F.linear(x + 1.0, layer.weight, layer.bias).detach()
    )
    assert torch.equal(batch.outputs, 10.0 * seen.outputs)
    assert float(seen.output_gradients.max()) == 10.0
    handle.remove()
