"""How batches are read, what accumulators are fed, and every refusal."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.model.capture import Accumulator, LayerBatch, ModelCall, capture

N, D, C = 6, 5, 3
LOSS = {"gradients": "loss", "loss": "cross_entropy"}


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


X, Y = draw(N, D), torch.tensor([0, 2, 1, 1, 0, 2])


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.fc = nn.Linear(D, C)

    def forward(self, a, b=None):
        return self.fc(a if b is None else a + b)


def first_batch(batch, model=None, layers=None, **options):
    with capture(model or Two(), layers, **options) as taps:
        return next(taps.over([batch]))


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        (X, Y, torch.arange(N), "beside"),
        {"x": X, "labels": Y},
        {"a": X, "label": Y},
        {"a": X, "targets": Y},
        {"b": X / 4, "a": 3 * X / 4, "target": Y},
        ({"a": 3 * X / 4, "b": X / 4}, Y),
        ((3 * X / 4, X / 4), Y),
        (X, Y[:, None].squeeze(1)),
    ],
)
def test_the_customs_of_loaders_are_understood(batch):
    seen = first_batch(batch, **LOSS)
    layer = Two().fc
    logits = layer(X)
    expected = torch.softmax(logits, 1) - F.one_hot(Y, C)
    assert torch.allclose(seen.outputs, logits, atol=1e-6)
    assert torch.allclose(seen["fc"].output_gradients, expected, atol=1e-6)
    assert torch.equal(seen.labels, Y)
    assert seen.num_samples == N


def test_a_batch_without_targets_runs_without_a_loss():
    for batch in (X, (X,), {"a": X}):
        seen = first_batch(batch)
        assert seen.targets is seen.loss is seen.labels is None
        assert seen.num_samples == N
        with pytest.raises(DomainError, match="needs targets, the batch has none"):
            first_batch(batch, **LOSS)


def test_floating_targets_are_no_labels():
    seen = first_batch((X, draw(N, C)), gradients="loss", loss="mse")
    assert seen.labels is None
    # A column of labels is a label per sample.
    assert torch.equal(first_batch((X, Y[:, None])).labels, Y)


def test_unpack_and_forward_replace_the_customs():
    def unpack(batch):
        return ModelCall(args=(batch["features"],), targets=batch["class"])

    seen = first_batch({"features": X, "class": Y, "id": 3}, unpack=unpack, **LOSS)
    assert torch.equal(seen.labels, Y)

    def forward(model, call):
        return model(call.args[0]) + model(call.args[0], call.args[0])

    seen = first_batch((X, Y), forward=forward, **LOSS)
    assert len(seen.calls("fc")) == 2
    total = seen.calls("fc")[0].outputs + seen.calls("fc")[1].outputs
    assert torch.equal(seen.outputs, total)


def test_a_batch_that_is_not_understood_is_told_the_way_out():
    with pytest.raises(ArgumentTypeError, match="got str; pass unpack= to capture"):
        first_batch("text")
    with pytest.raises(ArgumentTypeError, match="got tuple; pass unpack="):
        first_batch(())
    with pytest.raises(DomainError, match=r"arguments of Two\.forward, got id; pass"):
        first_batch({"a": X, "labels": Y, "id": 3})
    with pytest.raises(DomainError, match="under one key, got labels, target; pass"):
        first_batch({"a": X, "labels": Y, "target": Y})
    with pytest.raises(ArgumentTypeError, match="unpack must return a ModelCall"):
        first_batch((X, Y), unpack=lambda batch: batch)


class Gives(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.fc = nn.Linear(D, C)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.fc(x))


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: (z, None),
        lambda z: [z],
        lambda z: {"logits": z, "hidden": z[:1]},
        Output,
    ],
)
def test_logits_are_found_in_what_models_return(wrap):
    seen = first_batch((X, Y), Gives(wrap), **LOSS)
    assert torch.equal(seen.outputs, seen["fc"].outputs)
    assert float(seen["fc"].output_gradients.abs().max()) > 0.0


Pair = namedtuple("Pair", ["kept", "z"])


class Block(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.fc = nn.Linear(D, C)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.fc(x))


class Outer(nn.Module):
    def __init__(self, kind, wrap):
        super().__init__()
        self.kind, self.block = kind, Block(wrap)

    def forward(self, x):
        out = self.block(x)
        assert type(out) is self.kind
        parts = out.values() if isinstance(out, dict) else out
        return 2.0 * next(p for p in parts if isinstance(p, torch.Tensor))


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        (tuple, lambda z: (None, z)),
        (list, lambda z: [0, z]),
        (dict, lambda z: {1: None, "z": z}),
        (OrderedDict, lambda z: OrderedDict(kept=None, z=z)),
        (Pair, lambda z: Pair(None, z)),
    ],
)
def test_the_first_tensor_of_a_container_is_exchanged_within_it(kind, wrap):
    seen = first_batch((X, Y), Outer(kind, wrap), ["block", "block.fc"], **LOSS)
    deltas = seen["block"].output_gradients, seen["block.fc"].output_gradients
    assert torch.equal(*deltas)
    expected = 2.0 * (torch.softmax(seen.outputs, 1) - F.one_hot(Y, C))
    assert torch.allclose(deltas[0], expected, atol=1e-6)


def test_a_model_without_logits_is_captured_but_has_no_loss():
    model = Gives(lambda z: {"hidden": z})
    assert first_batch((X, Y), model)["fc"].outputs.shape == (N, C)
    assert first_batch((X, Y), model).outputs is None
    with pytest.raises(ArgumentTypeError, match="got dict; pass forward= to capture"):
        first_batch((X, Y), model, **LOSS)


class Mean:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, batch):
        rows = batch.output_rows()
        self.total, self.count = self.total + rows.sum(0), self.count + len(rows)


def test_run_feeds_objects_and_callables_with_every_call_of_their_layer():
    layer = nn.Linear(D, D)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    mean, calls = Mean(), []
    assert isinstance(mean, Accumulator)
    with capture(model) as taps:
        count = taps.run(batches, {"0": [mean, lambda seen: calls.append(seen.call)]})
        taps.run(batches, {"0": calls.append})
    assert count == N
    assert calls[:4] == [0, 1, 0, 1]
    assert isinstance(calls[4], LayerBatch)
    rows = torch.cat([layer(X), model(X)])
    assert mean.count == len(rows) == 2 * N
    assert torch.allclose(mean.total, rows.sum(0), atol=1e-5)


def test_accumulators_of_strange_layers_are_refused():
    with (
        capture(Two()) as taps,
        pytest.raises(UnknownNameError, match="got fc2; captured are fc"),
    ):
        taps.run([X], {"fc2": Mean()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradients": "all"}, "gradients must be one of None, 'loss', 'logits'"),
        ({"mode": "test"}, "mode must be one of None, 'eval', 'train'"),
        ({"autocast": torch.int8}, "autocast must be one of None, torch.bfloat16"),
        ({"batch_axis": 2}, "batch_axis must be one of None, 0, 1"),
        ({"gradients": "loss"}, "gradients='loss' needs a loss"),
        (
            {"gradients": "loss", "loss": nn.CTCLoss()},
            "sum of a loss must be known: CTCLoss takes more",
        ),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(DomainError, match=message):
        capture(Two(), **options)


def test_losses_that_are_none_are_refused():
    with pytest.raises(UnknownNameError, match="must be one of cross_entropy, nll"):
        capture(Two(), gradients="loss", loss="entropy")
    with pytest.raises(ArgumentTypeError, match="a name, an nn loss or a callable"):
        capture(Two(), gradients="loss", loss=3)
    for wrong in (lambda o, b: o, lambda o, b: 1.0):
        with pytest.raises(ShapeError, match="must return a scalar tensor"):
            first_batch((X, Y), gradients="loss", loss=wrong)
    with pytest.raises(ShapeError, match=r"needs outputs \(N, c\) or \(N,\)"):
        first_batch(draw(N, 4, D), gradients="logits")


def test_a_pass_outside_its_context_is_refused():
    taps = capture(Two())
    with pytest.raises(DomainError, match="write 'with capture"):
        next(taps.over([X]))
    with taps:
        pass
    with pytest.raises(DomainError, match="is not entered"):
        taps.run([X], {"fc": Mean()})


def test_a_dtype_casts_what_is_floating_and_nothing_else():
    model = Two().double()
    seen = first_batch((X, Y), model, dtype=torch.float64, **LOSS)
    assert seen["fc"].inputs.dtype == torch.float64
    assert seen.labels.dtype == torch.int64
    assert X.dtype == torch.float32
    # A regression target of another precision than the outputs is no error.
    first_batch((X.double(), draw(N, C)), model, gradients="loss", loss="mse")
    probabilities = torch.softmax(draw(N, C), 1)
    seen = first_batch((X.double(), probabilities), model, **LOSS)
    expected = torch.softmax(seen.outputs, 1) - probabilities
    assert torch.allclose(seen["fc"].output_gradients, expected, atol=1e-6)


@pytest.mark.parametrize(
    "targets",
    [
        torch.full((N,), C),
        torch.full((N,), -3),
        torch.rand(N),
        torch.zeros(N, 1, dtype=torch.long),
    ],
)
def test_targets_that_a_loss_does_not_take_are_refused_in_its_name(targets):
    with pytest.raises(DomainError, match="'cross_entropy' takes with outputs"):
        first_batch((X, targets), **LOSS)


@pytest.mark.parametrize("loader", [None, 5])
def test_a_loader_that_is_no_iterable_is_refused(loader):
    with (
        capture(Two()) as taps,
        pytest.raises(ArgumentTypeError, match="an iterable of batches"),
    ):
        next(taps.over(loader))
