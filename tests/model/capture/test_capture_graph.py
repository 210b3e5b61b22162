"""Where the graph has seams: BatchNorm, checkpoints, no_grad, in-place, parameters."""

import warnings

import pytest
import torch
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.errors import DomainError, SpectrankWarning
from spectrank.model.capture import capture

N, C = 6, 3


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build().double()


def mlp(inplace=False):
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 4), nn.Tanh(),
        nn.Linear(4, C),
    )  # fmt: skip


def labels(count=N, classes=C, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (count,), generator=generator)


def close(a, b, scale=1.0):
    return torch.allclose(a, b, rtol=0.0, atol=FLOAT64 * scale)


def first_batch(model, batch, layers=None, **options):
    with capture(model, layers, **options) as taps:
        return next(taps.over([batch]))


def weight_gradient(loss, weight):
    return torch.autograd.grad(loss, weight)[0]


def normed():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, C))


def test_batchnorm_in_training_couples_samples_and_says_so():
    model, x, y = seeded(normed), draw(N, 5), labels()
    with (
        pytest.warns(SpectrankWarning, match="BatchNorm couples them in 1;"),
        capture(model, gradients="loss", loss="cross_entropy", mode="train") as taps,
    ):
        seen = next(taps.over([(x, y)]))["0"]
    model.train()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    # The identity is that of the summed loss of the batch, and holds all the same.
    outer = seen.gradient_rows().T @ seen.input_rows()
    assert close(outer, weight_gradient(loss, model[0].weight))
    assert taps.coupled == ("1",)
    model.eval()
    with capture(model, gradients="loss", loss="cross_entropy", mode=None) as taps:
        assert taps.coupled == ()


def test_batchnorm_without_running_statistics_couples_in_eval_too():
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(5, 4),
            nn.BatchNorm1d(4, track_running_stats=False),
            nn.Linear(4, C),
        )
    )
    taps = capture(model, gradients="loss", loss="cross_entropy")
    assert taps.coupled == ("1",)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_deltas_or_a_reason(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, C)

        def inner(self, h):
            return torch.tanh(self.b(torch.tanh(h)))

        def forward(self, x):
            h = self.a(x)
            if self.training:
                h = checkpoint(self.inner, h, use_reentrant=reentrant)
            else:
                h = self.inner(h)
            return self.c(h)

    model, x, y = seeded(Net), draw(N, 5), labels()
    options = {"gradients": "loss", "loss": "cross_entropy"}
    plain = first_batch(model, (x, y), **options)
    if reentrant:
        with pytest.raises(DomainError, match="use_reentrant=False"):
            first_batch(model, (x, y), mode="train", **options)
        return
    for parameters in (True, False):
        model.requires_grad_(parameters)
        batch = first_batch(model, (x, y), mode="train", **options)
        for name in "abc":
            # The second run of the layer, in the backward pass, is no second use.
            assert len(batch.calls(name)) == 1
            assert close(batch[name].output_gradients, plain[name].output_gradients)


def test_a_layer_under_no_grad_has_no_gradient_and_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.side, self.head = (
                nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, C),
            )  # fmt: skip

        def forward(self, x):
            with torch.no_grad():
                h = self.trunk(x)
            self.side(h)
            return self.head(h)

    model, x, y = seeded(Net), draw(N, 5), labels()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    assert {w.category for w in caught} == {SpectrankWarning}
    assert batch["trunk"].output_gradients is None
    with pytest.raises(DomainError, match="does not run the layer under"):
        batch["trunk"].gradient_rows()
    assert not bool(batch["side"].output_gradients.any())
    assert close(batch["trunk"].outputs, model.trunk(x).detach())
    texts = [str(w.message) for w in caught]
    assert any("without gradients: trunk;" in text for text in texts)
    assert any("does not depend on the output of: side;" in text for text in texts)


def test_a_block_and_its_last_layer_have_each_their_own_delta():
    # The block adds a skip behind its layer; both outputs are nodes of one graph.
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, x):
            return self.inner(x).add_(x)

    model = seeded(lambda: nn.Sequential(Block(), nn.Linear(5, C)))
    x, y = draw(N, 5), labels()
    batch = first_batch(
        model, (x, y), ["0", "0.inner"], gradients="loss", loss="cross_entropy"
    )
    assert close(batch["0"].output_gradients, batch["0.inner"].output_gradients)
    assert close(batch["0"].outputs, batch["0.inner"].outputs + x)
    assert close(batch["0.inner"].inputs, x)


def test_a_module_that_returns_its_parameter_is_not_charged_with_other_uses():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(C, 5))

        def forward(self, x):
            return self.weight

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = Table()

        def forward(self, x):
            return x @ self.table(x).T + (x * self.table.weight[0]).sum(1, keepdim=True)

    model, x, t = seeded(Net), draw(N, 5), draw(N, C, seed=3)
    seen = first_batch(model, (x, t), gradients="loss", loss="mse")["table"]
    delta = 2.0 * (model(x).detach() - t)
    assert close(seen.output_gradients, delta.T @ x)


def test_an_operation_in_place_on_the_input_does_not_reach_the_record():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, C)
            self.a.requires_grad_(False)

        def forward(self, x):
            h = x * 2.0
            y = self.a(h)
            h.zero_()
            return self.b(y + h)

    model, x = seeded(Net), draw(N, 5)
    for options in ({}, {"gradients": "loss", "loss": "cross_entropy"}):
        batch = first_batch(model, (x, labels()), **options)
        assert close(batch["a"].inputs, 2.0 * x)


@pytest.mark.parametrize("gradients", [None, "loss"])
def test_an_operation_in_place_on_the_output_does_not_reach_the_record(gradients):
    model = seeded(lambda: mlp(inplace=True))
    x = draw(N, 5)
    batch = first_batch(model, (x, labels()), gradients=gradients, loss="cross_entropy")
    assert close(batch["0"].outputs, model[0](x).detach())
    assert float(batch["0"].outputs.min()) < 0.0


def test_a_module_that_calls_itself_keeps_inputs_and_outputs_together():
    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(5) / 2)

        def forward(self, x, depth=2):
            h = x @ self.weight
            return self(h, depth - 1) * 3.0 if depth else h

    model, x = seeded(Recursive), draw(N, 5)
    calls = first_batch(model, (x, labels()), "").calls("")
    # Calls are counted as they return: the innermost first.
    for call, (before, after) in enumerate(
        [(1 / 4, 1 / 8), (1 / 2, 3 / 8), (1, 9 / 8)]
    ):
        assert close(calls[call].inputs, before * x)
        assert close(calls[call].outputs, after * x)
