"""Observers: what counts as a step, and that hooks leave no trace."""

import pytest
import torch
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.train.observers import Observer


class Recorder(Observer):
    def __init__(self, **options):
        super().__init__(**options)
        self.steps = []

    def on_step(self, step):
        self.steps.append(step)


def sgd(n=1):
    model = nn.Linear(2, 2)
    return model, [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(n)]


def train(model, optimizer):
    optimizer.zero_grad()
    loss = model(torch.ones(1, 2)).square().sum()
    loss.backward()
    optimizer.step()
    return loss


def num_hooks(optimizer):
    return len(optimizer._optimizer_step_post_hooks) + len(
        optimizer._optimizer_step_pre_hooks
    )


def test_observe_counts_one_step_a_call_and_drops_the_graph_of_the_loss():
    model, (optimizer,) = sgd()
    observer = Recorder(first_step=7)
    loss = train(model, optimizer)
    observer.observe(optimizer, loss)
    (step,) = observer.steps
    assert (step.index, observer.step) == (8, 8)
    assert step.optimizers == (optimizer,)
    assert not step.loss.requires_grad
    assert torch.equal(step.loss, loss.detach())
    observer.observe(optimizer)
    assert observer.steps[1].loss is None


def test_the_loss_is_copied_so_that_later_writes_do_not_change_it():
    _, (optimizer,) = sgd()
    observer, loss = Recorder(), torch.tensor(3.0)
    observer.observe(optimizer, loss)
    loss.zero_()
    assert float(observer.steps[0].loss) == 3.0


def test_an_attached_observer_hears_of_each_step_until_it_is_removed():
    model, (optimizer,) = sgd()
    observer, before = Recorder(), num_hooks(optimizer)
    attachment = observer.attach(optimizer)
    assert attachment.attached
    observer.note(2.5)
    train(model, optimizer)
    train(model, optimizer)
    attachment.remove()
    attachment.remove()
    train(model, optimizer)
    assert [step.index for step in observer.steps] == [1, 2]
    assert [step.loss for step in observer.steps] == [2.5, None]
    assert num_hooks(optimizer) == before
    assert not attachment.attached
    with observer.attach(optimizer):
        train(model, optimizer)
    assert observer.step == 3


def test_a_with_block_detaches_when_training_fails():
    _, (optimizer,) = sgd()
    before = num_hooks(optimizer)
    with pytest.raises(RuntimeError, match="diverged"), Recorder().attach(optimizer):
        raise RuntimeError("diverged")
    assert num_hooks(optimizer) == before


def test_a_step_of_lbfgs_counts_once_however_often_it_asks_its_closure():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    observer, calls = Recorder(), []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = (model(torch.eye(2)) - 1.0).square().sum()
        loss.backward()
        return loss

    with observer.attach(optimizer):
        optimizer.step(closure)
    assert len(calls) > 1
    assert observer.step == 1


def test_a_step_that_the_grad_scaler_skips_is_not_counted_when_attached():
    model, (optimizer,) = sgd()
    scaler = torch.amp.GradScaler("cpu")
    observer = Recorder()
    with observer.attach(optimizer):
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(1, 2)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
    assert observer.step == 2


def test_a_step_that_calls_the_step_of_its_parent_counts_once():
    class Mine(torch.optim.SGD):
        fail = False

        def step(self, closure=None):
            super().step(closure)
            if self.fail:
                raise RuntimeError("out of luck")

    model, _ = sgd()  # torch wraps the step of a class when one is made: of both here.
    optimizer, observer = Mine(model.parameters(), lr=0.1), Recorder()
    hooks = num_hooks(optimizer)
    with observer.attach(optimizer):
        train(model, optimizer)
        assert observer.step == 1
        observer.note(2.5)
        optimizer.fail = True
        with pytest.raises(RuntimeError, match="luck"):
            train(model, optimizer)
        # The inner call ended, the step as a whole did not.
        assert observer.step == 1
        optimizer.fail = False
        train(model, optimizer)
    assert [step.index for step in observer.steps] == [1, 2]
    assert num_hooks(optimizer) == hooks


def test_an_observer_sees_the_weights_after_the_whole_step():
    class Rounded(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.round_()

    seen = []

    class Reader(Observer):
        def on_step(self, step):
            seen.append(model.weight.detach().clone())

    model, _ = sgd()
    with torch.no_grad():
        model.weight.fill_(3.3)
    optimizer = Rounded(model.parameters(), lr=0.01)
    with Reader().attach(optimizer):
        train(model, optimizer)
    assert len(seen) == 1
    assert torch.equal(seen[0], seen[0].round())


def test_several_optimizers_make_one_step_together():
    model, (first, second) = sgd(2)
    observer = Recorder()
    with observer.attach(first, second):
        for optimizer in (first, second, first, first, second, second):
            train(model, optimizer)
    # The fourth step of `second` alone does not complete a third.
    assert observer.step == 2
    assert observer.steps[0].optimizers == (first, second)


def test_two_observers_may_watch_one_optimizer():
    model, (optimizer,) = sgd()
    observers = [Recorder(), Recorder()]
    with observers[0].attach(optimizer), observers[1].attach(optimizer):
        train(model, optimizer)
    assert [observer.step for observer in observers] == [1, 1]


def test_what_would_count_twice_is_refused():
    _, (first, second) = sgd(2)
    observer = Recorder()
    with observer.attach(first):
        with pytest.raises(DomainError, match="attached already"):
            observer.attach(second)
        with pytest.raises(DomainError, match="count them twice"):
            observer.observe(first)
    with pytest.raises(DomainError, match="one of them twice"):
        observer.attach(first, first)
    observer.observe(first)
    assert observer.step == 1


def test_what_is_no_optimizer_or_no_loss_is_refused():
    model, (optimizer,) = sgd()
    observer = Recorder()
    with pytest.raises(DomainError, match="at least one optimizer"):
        observer.attach()
    with pytest.raises(ArgumentTypeError, match="got Linear"):
        observer.attach(model)
    with pytest.raises(ArgumentTypeError, match="got generator"):
        observer.observe(model.parameters())
    with pytest.raises(DomainError, match=r"shape \(3,\)"):
        observer.observe(optimizer, torch.ones(3))
    with pytest.raises(ArgumentTypeError, match="got str"):
        observer.observe(optimizer, "0.1")
    with pytest.raises(DomainError, match="at least 0"):
        Recorder(first_step=-1)
    with pytest.raises(ArgumentTypeError, match="whole number"):
        Recorder(first_step=1.0)
    assert observer.step == 0
