"""Which losses see differences of logits only, and along which axis classes lie."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from spectrank.errors import UnknownNameError
from spectrank.invariance import find, polar
from spectrank.invariance.linear import sees_differences

CLASSES = torch.tensor([0, 2, 1, 0])
ROWS = torch.tensor([[0, 2, -1], [1, -1, -1], [2, 0, 1], [0, -1, -1]])
ONES = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]).double()
NAMED = {
    "cross_entropy": functional.cross_entropy,
    "nll": functional.nll_loss,
    "mse": functional.mse_loss,
    "huber": functional.huber_loss,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}
MODULES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.3, weight=torch.tensor([1.0, 2, 3]).double()),
    nn.NLLLoss(),
    nn.MultiMarginLoss(),
    nn.MultiMarginLoss(p=2, margin=0.7),
    nn.MultiLabelMarginLoss(),
    nn.MultiLabelSoftMarginLoss(),
    nn.MSELoss(),
    nn.BCEWithLogitsLoss(),
    nn.SoftMarginLoss(),
    functional.cross_entropy,
    functional.multi_margin_loss,
    functional.multilabel_margin_loss,
    functional.l1_loss,
]


def moves(loss):
    """How far a loss moves when a number is added to all logits of a sample."""
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)).double()
    for targets in (CLASSES, ROWS, ONES):
        try:
            before = loss(logits, targets)
            after = loss(logits + torch.tensor([[1.0], [-2], [0.5], [3]]), targets)
        except (RuntimeError, ValueError, UserWarning):
            continue
        return float((after - before).abs())
    raise AssertionError(loss)


@pytest.mark.parametrize("loss", MODULES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_loss_sees_differences_iff_a_common_number_does_not_move_it(loss):
    assert sees_differences(loss) == (moves(loss) < 1e-12)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_loss_sees_differences_iff_a_common_number_does_not_move_it(name):
    assert sees_differences(name) == (moves(NAMED[name]) < 1e-12)


def test_losses_that_are_not_known_are_told_so():
    assert sees_differences(None) is False
    assert sees_differences(lambda outputs, targets: 0.0) is None
    with pytest.raises(UnknownNameError, match="cross-entropy"):
        sees_differences("cross-entropy")
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UnknownNameError, match="hinge"):
        find(net, torch.zeros(2, 4), loss="hinge")
    laws = find(net, torch.zeros(2, 4), loss=lambda outputs, targets: 0.0)
    assert len(laws) == 0
    assert [item.name for item in laws.skipped] == ["loss"]


def mlp(outputs, *after):
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, outputs), *after)


def cnn(outputs):
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, outputs, 2))


class Channels(nn.Module):
    """Logits of every position, classes before the positions or after."""

    def __init__(self, *, first):
        super().__init__()
        self.net, self.first = mlp(3), first

    def forward(self, x):
        return self.net(x).transpose(1, 2) if self.first else self.net(x)


class Heads(nn.Module):
    """A policy of three actions and a value."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.policy, self.value = nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x):
        h = self.body(x).relu()
        return self.policy(h), self.value(h)


# Net, inputs, axis of the classes of its first output, number of linear laws.
NETS = {
    "one logit": (mlp(1), (6, 4), None, 0),
    "one logit, one axis": (mlp(1, nn.Flatten(0)), (6, 4), None, 0),
    "one channel": (cnn(1), (3, 2, 7, 7), None, 0),
    "two logits": (mlp(2), (6, 4), 1, 6),
    "positions": (Channels(first=False), (2, 3, 4), 2, 6),
    "classes before positions": (Channels(first=True), (2, 3, 4), 1, 6),
    "images": (cnn(3), (3, 2, 7, 7), 1, 17),
    "linear on images": (mlp(2), (2, 3, 3, 4), 3, 6),
    "sequences": (
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2)),
        (3, 2, 7),
        1,
        9,
    ),
    "policy and value": (Heads(), (6, 4), 1, 6),
}


@pytest.mark.parametrize("name", NETS)
def test_laws_of_a_head_are_those_of_a_loss_over_its_classes(name):
    model, shape, axis, number = NETS[name]
    model = model.double()
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    laws = [law for law in find(model, x) if law.form == "linear"]
    assert sum(law.count for law in laws) == number
    outputs = model(x)
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    if axis is None:
        labels = torch.randint(2, first.shape, generator=generator).double()
        risk = functional.binary_cross_entropy_with_logits(first, labels)
    else:
        logits = first.movedim(axis, -1).flatten(0, -2)
        labels = torch.randint(logits.shape[-1], logits.shape[:1], generator=generator)
        risk = functional.cross_entropy(logits, labels)
    for other in outputs[1:] if isinstance(outputs, tuple) else ():
        risk = risk + other.square().mean()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(risk, parameters), strict=True))
    for law in laws:
        assert "a loss of differences of logits" in law.condition
        size = sum(float(gradients[p].abs().max()) for p in law.parameters)
        moved = float(polar(law, dict(model.named_parameters()), gradients).abs().max())
        assert size > 1e-4
        assert moved < 1e-12 * size


def test_the_bias_of_scores_of_positions_needs_the_loss_too():
    class Choices(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(1)

        def forward(self, x):
            return self.net(x).squeeze(-1)

    laws = find(Choices(), torch.zeros(2, 3, 4)).select("constant")
    assert [law.parameters for law in laws] == [("net.2.bias",)]
    assert "a loss of differences of logits" in laws[0].condition
    assert len(find(Choices(), torch.zeros(2, 3, 4), loss=None).select("constant")) == 0
