"""A tracked run is bit for bit the run without, and leaves no trace behind."""

import copy

import pytest
import torch
from torch import nn

from spectrank.train.tracker import Tracker


def build(dtype):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(6 * 36, 48),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(48, 40)),
        nn.utils.parametrizations.weight_norm(nn.Linear(40, 4)),
    ).to(dtype)


def run(dtype, make_optimizer, tracked):
    model = build(dtype)
    optimizer = make_optimizer(model)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    tracker = None
    if tracked:
        # Every path: warm vectors, anchors, small matrices, full spectra, computed
        # weights, full enclosures in the middle.
        tracker = Tracker(
            model,
            "stable_rank,effective_rank",
            refresh=5,
            drift=True,
            spectrum_every=4,
        )
        tracker.measure()
    losses = []
    for _ in range(20):
        x = torch.randn(8, 1, 8, 8, dtype=dtype, generator=generator)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        if tracker is not None:
            tracker.observe(optimizer, loss)
        losses.append(loss.detach())
    if tracker is not None:
        assert len(tracker.table()) > 100
    return model, optimizer, torch.stack(losses), torch.get_rng_state()


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


@pytest.mark.parametrize("make_optimizer", [momentum, adamw])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twenty_steps_are_bit_identical_with_and_without_a_tracker(
    dtype, make_optimizer
):
    model, optimizer, losses, rng = run(dtype, make_optimizer, tracked=False)
    other, tracked, others, other_rng = run(dtype, make_optimizer, tracked=True)
    assert torch.equal(losses, others)
    assert torch.equal(rng, other_rng)
    state, other_state = model.state_dict(), other.state_dict()
    assert list(state) == list(other_state)
    assert all(torch.equal(state[name], other_state[name]) for name in state)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    for p, q in zip(optimizer.state.values(), tracked.state.values(), strict=True):
        assert all(torch.equal(p[key], q[key]) for key in p if key != "step")


def hooks(model, optimizer):
    return [
        {k: len(v) for k, v in vars(m).items() if "hook" in k and hasattr(v, "__len__")}
        for m in (*model.modules(), optimizer)
    ]


def test_nothing_is_left_on_model_or_optimizer_after_detaching():
    model = build(torch.float32)
    optimizer = momentum(model)
    state = copy.deepcopy(model.state_dict())
    attributes = [set(vars(module)) for module in model.modules()]
    before, modes = hooks(model, optimizer), [m.training for m in model.modules()]
    versions = [p._version for p in model.parameters()]
    tracker = Tracker(model)
    with tracker.attach(optimizer):
        assert hooks(model, optimizer) != before
        tracker.measure()
    tracker.close()
    assert hooks(model, optimizer) == before
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert [m.training for m in model.modules()] == modes
    assert [p._version for p in model.parameters()] == versions
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_closing_a_tracker_detaches_it():
    model = build(torch.float32)
    optimizer = momentum(model)
    before = hooks(model, optimizer)
    with Tracker(model) as tracker:
        tracker.attach(optimizer)
    assert hooks(model, optimizer) == before


def test_a_backward_pass_may_be_open_while_the_tracker_looks():
    model = nn.Linear(40, 40)
    loss = model(torch.ones(2, 40)).sum()
    tracker = Tracker(model)
    tracker.measure()
    tracker.observe(torch.optim.SGD(model.parameters(), lr=0.1), loss)
    loss.backward()
    assert model.weight.grad is not None


def test_two_runs_of_a_tracker_give_the_same_numbers_and_another_seed_does_not():
    def values(seed):
        torch.manual_seed(0)
        model = nn.Linear(64, 64)
        tracker = Tracker(model, seed=seed)
        optimizer = momentum(model)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 64)).sum().backward()
            optimizer.step()
            tracker.observe(optimizer)
        return tracker.table().frame["lower"].to_list()

    assert values(0) == values(0)
    assert values(0) != values(1)
