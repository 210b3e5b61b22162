"""Nothing of the user's changes: model, gradients, hooks, random state, memory."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spectrank.model.capture import capture

N, C = 6, 3


class Net(nn.Module):
    """Batch statistics, dropout, in-place activation, own state, a user's hook."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(5, 8)
        self.bn = nn.BatchNorm1d(8)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, C)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.last = None

    def forward(self, x):
        self.calls += 1
        h = self.drop(self.act(self.bn(self.fc1(x))))
        h = self.fc2(h)
        self.last = h
        self.extra = h
        np.random.random()  # noqa: NPY002
        random.random()
        a, _ = self.attention(h[:, None], h[:, None], h[:, None])
        return self.head(h + a[:, 0])


def build():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Net()
    model.train()
    model.bn.eval()
    model.head.eval()
    model.head.register_forward_hook(lambda m, a, o: o * 1.0)
    model.fc1.register_forward_pre_hook(lambda m, a: None)
    model.fc1.weight.grad = torch.full_like(model.fc1.weight, 0.25)
    return model


def data(count=3 * N):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(count, 5, generator=generator)
    return x, torch.randint(C, (count,), generator=generator)


def loader():
    x, y = data()
    return list(zip(x.split(N), y.split(N), strict=True))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


def photograph(model):
    """Everything that could change, as values and as identities."""
    modules = dict(model.named_modules())
    return {
        "training": {n: m.training for n, m in modules.items()},
        "attributes": {n: list(vars(m)) for n, m in modules.items()},
        "rebound": (model.last, "extra" in vars(model)),
        "hooks": {
            (n, kind): list(getattr(m, kind).items())
            for n, m in modules.items()
            for kind in HOOKS
        },
        "parameters": {
            n: (id(p), p._version, p.requires_grad, p.detach().clone())
            for n, p in model.named_parameters()
        },
        "grads": {
            n: None if p.grad is None else (id(p.grad), p.grad.clone())
            for n, p in model.named_parameters()
        },
        "buffers": {
            n: (id(b), b._version, b.clone()) for n, b in model.named_buffers()
        },
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:3],  # noqa: NPY002
        "python": random.getstate(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "linear": F.linear,
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_untouched(model, before):
    after = photograph(model)
    for key, value in before.items():
        assert same(value, after[key]), key


WAYS = {
    "values": {},
    "loss": {"gradients": "loss", "loss": "cross_entropy"},
    "logits": {"gradients": "logits"},
    "every module": {"layers": nn.Module, "gradients": "logits"},
    "autocast": {
        "gradients": "loss",
        "loss": "cross_entropy",
        "autocast": torch.bfloat16,
    },
}


@pytest.mark.filterwarnings("ignore:a gradient per sample")
@pytest.mark.filterwarnings("ignore:layers that never ran")
@pytest.mark.filterwarnings("ignore:the loss does not depend")
@pytest.mark.parametrize("mode", ["eval", "train", None])
@pytest.mark.parametrize("way", WAYS)
def test_a_pass_leaves_everything_bit_for_bit(way, mode):
    model, batches = build(), loader()
    before = photograph(model)
    with capture(model, mode=mode, **WAYS[way]) as taps:
        count = 0
        for batch in taps.over(batches):
            # Between batches too, so the loop may go on with the model.
            assert_untouched(model, before)
            assert batch.outputs.shape == (N, C)
            count += 1
        assert count == 3
        assert_untouched(model, before)
    assert_untouched(model, before)


def test_the_photograph_sees_what_an_ordinary_pass_changes():
    # The test above can fail: a plain forward-backward changes all of this.
    model, batches = build(), loader()
    before = photograph(model)
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    after = photograph(model)
    changed = {key for key, value in before.items() if not same(value, after[key])}
    assert changed >= {"rebound", "grads", "buffers", "torch", "numpy", "python"}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_loop_that_breaks_or_raises_leaves_everything(mode):
    model, batches = build(), loader()
    before = photograph(model)
    with capture(model, mode=mode) as taps:
        for _ in taps.over(batches):
            break
        assert_untouched(model, before)
        stopped = taps.over(batches)
        next(stopped)
        stopped.close()
        assert_untouched(model, before)
        with pytest.raises(ZeroDivisionError):
            taps.run(batches, {"fc1": lambda seen: 1 / 0})
        assert_untouched(model, before)

    def leave():
        with capture(model, mode=mode) as taps:
            next(taps.over(batches))
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    assert_untouched(model, before)


class Fails(nn.Module):
    def forward(self, x):
        raise ArithmeticError


@pytest.mark.parametrize("place", ["head", "act", "loss", "loader"])
def test_an_error_inside_the_pass_leaves_everything(place):
    model, batches = build(), loader()
    loss = "cross_entropy"
    if place in {"head", "act"}:
        setattr(model, place, Fails())
    elif place == "loss":

        def loss(outputs, batch):
            raise ArithmeticError

    else:

        def broken():
            yield from loader()[:1]
            torch.rand(1)
            raise ArithmeticError

        batches = broken()
    before = photograph(model)
    with capture(model, gradients="loss", loss=loss, mode=None) as taps:
        with pytest.raises(ArithmeticError):
            list(taps.over(batches))
        assert_untouched(model, before)


def test_an_error_inside_attention_gives_its_function_back():
    model = build()
    before = photograph(model)
    wrong = (torch.zeros(N, 3, 7),) * 3
    with capture(model.attention, "out_proj") as taps:
        with pytest.raises(AssertionError, match="embedding dimension of 8"):
            next(taps.over([(wrong,)]))
        assert_untouched(model, before)


def test_nested_captures_of_one_model_do_not_meet():
    model, batches = build(), loader()
    before = photograph(model)
    options = {"gradients": "loss", "loss": "cross_entropy"}
    with capture(model, **options) as taps:
        alone = [b["fc1"].output_gradients for b in taps.over(batches)]
    with capture(model, **options) as outer, capture(model, "fc*") as inner:
        for index, batch in enumerate(outer.over(batches)):
            for seen in inner.over(batches[:2]):
                assert seen.layers == ("fc1", "fc2")
            assert torch.equal(batch["fc1"].output_gradients, alone[index])
    assert_untouched(model, before)


def test_the_loop_may_train_the_model_between_batches():
    model, twin, batches = build(), build(), loader()
    for each in (model, twin):
        each.eval()

    def step(net, batch):
        loss = F.cross_entropy(net(batch[0]), batch[1])
        trained = [p for p in net.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter -= 0.1 * gradient

    with capture(model) as taps:
        for raw, batch in zip(batches, taps.over(batches), strict=True):
            # The pass sees the model as it is now.
            assert torch.equal(batch.outputs, twin(raw[0]))
            step(model, raw)
            step(twin, raw)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_graph_of_the_user_survives_a_pass_in_between():
    # Saved tensors are checked by version: writing a buffer back would break this.
    model, (batch, *_) = build(), loader()
    model.train()
    loss = F.cross_entropy(model(batch[0]), batch[1])
    with capture(model, mode="train") as taps:
        next(taps.over([batch]))
    loss.backward()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_under_the_callers_no_grad(guard):
    model, batches = build(), loader()
    options = {"gradients": "loss", "loss": "cross_entropy"}
    with capture(model, **options) as taps:
        expected = next(taps.over(batches))["fc1"].output_gradients
    before = photograph(model)
    with guard():
        made_inside = [(x + 0.0, y + 0) for x, y in batches]
        with capture(model, **options) as taps:
            seen = next(taps.over(made_inside))["fc1"]
            grad_mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert grad_mode == (False, guard is torch.inference_mode)
    assert torch.equal(seen.output_gradients, expected)
    assert_untouched(model, before)


def test_a_copied_model_gives_the_same_records():
    # The pass leaves no closure in the model that would drag the taps along.
    model, batches = build(), loader()
    with capture(model, gradients="loss", loss="cross_entropy") as taps:
        seen = next(taps.over(batches))["attention.out_proj"]
        twin = copy.deepcopy(model)
    with capture(twin, gradients="loss", loss="cross_entropy") as taps:
        again = next(taps.over(batches))["attention.out_proj"]
    assert torch.equal(seen.output_gradients, again.output_gradients)


def test_without_gradients_no_graph_is_built():
    class Asks(nn.Module):
        def forward(self, x):
            asked.append((torch.is_grad_enabled(), x.requires_grad))
            return x

    asked = []
    model = nn.Sequential(nn.Linear(5, C), Asks())
    with capture(model, "0") as taps:
        next(taps.over(loader()))
    with capture(model, "0", gradients="logits") as taps:
        next(taps.over(loader()))
    assert asked == [(False, False), (True, True)]
