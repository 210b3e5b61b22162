"""How targets are read: hard labels in every guise, regression, refusals."""

import pytest
import torch
from torch import nn

from spectrank.collapse.statistics.labels import read, settle
from spectrank.errors import DomainError
from spectrank.model import capture, describe_loss

X = torch.linspace(-1.0, 1.0, 15, dtype=torch.float64).reshape(5, 3)
HARD = torch.tensor([2, 0, 1, 1, 2])


def batch_of(targets, width=3, loss=None, x=X):
    """The first batch of a linear model with ``width`` outputs, and its own module."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, width)).double()
    with capture(model, loss=loss) as taps:
        return next(iter(taps.over([(x, targets)])))


def settled(batch, loss=None, **options):
    options = {"targets": None, "num_classes": None, **options}
    described = None if loss is None else describe_loss(loss)
    reading = settle(batch, described, **options)
    return reading, read(batch, reading)


@pytest.mark.parametrize(
    ("targets", "loss"),
    [
        (HARD, "cross_entropy"),
        (HARD.to(torch.int32), None),
        (nn.functional.one_hot(HARD, 3).double(), "mse"),
        (nn.functional.one_hot(HARD, 3).double(), "cross_entropy"),
        (nn.functional.one_hot(HARD, 3), None),
    ],
)
def test_hard_labels_are_read_from_integers_and_one_hot_rows(targets, loss):
    batch = batch_of(targets)
    reading, found = settled(batch, loss)
    assert (reading.kind, reading.num_classes) == ("classes", 3)
    assert found.labels.tolist() == HARD.tolist()
    assert found.predictions.tolist() == batch.outputs.argmax(1).tolist()
    assert torch.equal(found.logits, batch.outputs)
    assert found.values is None


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
@pytest.mark.parametrize("kind", [torch.int64, torch.float64])
def test_signed_labels_become_two_classes(loss, kind):
    targets = torch.tensor([1, -1, -1, 1, 1]).to(kind)
    batch = batch_of(targets, width=1)
    reading, found = settled(batch, loss)
    assert reading.num_classes == 2
    assert found.labels.tolist() == [1, 0, 0, 1, 1]
    assert found.predictions.tolist() == (batch.outputs[:, 0] > 0).long().tolist()


def test_a_probability_decides_at_one_half_a_logit_at_zero():
    targets = torch.tensor([1.0, 0, 0, 1, 1], dtype=torch.float64)[:, None]
    with capture(nn.Linear(1, 1, bias=False).double()) as taps:
        x = torch.tensor([0.3, -0.4, 1.1, 2.0, 0.6], dtype=torch.float64)[:, None]
        batch = next(iter(taps.over([(x, targets)])))
    batch.outputs = x
    outputs = batch.outputs[:, 0]
    assert bool(((outputs > 0) != (outputs > 0.5)).any())
    _, logits = settled(batch, "bce_with_logits")
    _, chances = settled(batch, "bce")
    assert logits.predictions.tolist() == (outputs > 0).long().tolist()
    assert chances.predictions.tolist() == (outputs > 0.5).long().tolist()
    assert logits.labels.tolist() == [1, 0, 0, 1, 1]


def test_real_targets_of_an_elementwise_loss_are_regressed():
    targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    reading, found = settled(batch_of(targets), "mse")
    assert (reading.kind, reading.num_classes) == ("regression", None)
    assert torch.equal(found.values, targets)
    assert (found.labels, found.predictions) == (None, None)
    # Whole numbers are numbers to a regression loss.
    reading, found = settled(batch_of(HARD[:, None], width=1), "mse")
    assert reading.kind == "regression"
    assert found.values[:, 0].tolist() == HARD.tolist()


def test_one_hot_rows_may_be_stated_to_be_regressed():
    targets = nn.functional.one_hot(HARD, 3).double()
    reading, found = settled(batch_of(targets), "mse", targets="regression")
    assert reading.kind == "regression"
    assert torch.equal(found.values, targets)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits", None])
def test_soft_labels_are_refused(loss):
    soft = torch.tensor([[0.9, 0.1, 0.0]] * 5, dtype=torch.float64)
    with pytest.raises(DomainError, match=r"soft labels; pass targets\.argmax"):
        settled(batch_of(soft), loss)
    # Two ones in a row are several labels, not one.
    several = torch.tensor([[1.0, 1.0, 0.0]] * 5, dtype=torch.float64)
    with pytest.raises(DomainError, match="soft labels"):
        settled(batch_of(several), loss)


def test_a_later_batch_of_another_kind_is_refused():
    reading, _ = settled(batch_of(nn.functional.one_hot(HARD, 3).double()), "mse")
    later = batch_of(torch.full((5, 3), 0.5, dtype=torch.float64))
    with pytest.raises(DomainError, match=r"as those of the first were.*batch 0"):
        read(later, reading)


def test_the_number_of_classes_may_be_stated():
    reading, _ = settled(batch_of(HARD), "cross_entropy", num_classes=7)
    assert reading.num_classes == 7


class _Tokens(nn.Module):
    """Logits per token, classes on the last axis or on the second."""

    def __init__(self, axis):
        super().__init__()
        self.layer, self.axis = nn.Linear(3, 4).double(), axis

    def forward(self, x):
        return self.layer(x).movedim(-1, self.axis)


@pytest.mark.parametrize("axis", [-1, 1])
def test_logits_of_tokens_are_rows_in_the_order_of_the_labels(axis):
    x = torch.linspace(-1.0, 1.0, 30, dtype=torch.float64).reshape(2, 5, 3)
    labels = torch.tensor([[0, 1, 2, 3, -100], [3, -100, 1, 0, 2]])
    model = _Tokens(axis)
    with capture(model) as taps:
        batch = next(iter(taps.over([(x, labels)])))
    reading, found = settled(batch, nn.CrossEntropyLoss())
    assert reading.num_classes == 4
    wanted = model.layer(x).detach()
    assert torch.equal(found.logits, wanted.reshape(10, 4))
    assert torch.equal(found.predictions, wanted.argmax(-1))


def test_classes_are_on_axis_1_where_both_axes_fit_as_torch_reads_it():
    x = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(2, 4, 3)
    labels = torch.tensor([[0, 1, 2, 3], [3, 1, 1, 0]])
    model = _Tokens(-1)
    with capture(model) as taps:
        batch = next(iter(taps.over([(x, labels)])))
    _, found = settled(batch, nn.CrossEntropyLoss())
    assert torch.equal(found.predictions, batch.outputs.argmax(1))
    _, found = settled(batch, "causal_cross_entropy")
    assert torch.equal(found.predictions, batch.outputs.argmax(-1))


def test_missing_targets_are_refused():
    with capture(nn.Linear(3, 2).double()) as taps:
        batch = next(iter(taps.over([X])))
    with pytest.raises(DomainError, match=r"need targets, the batch has none"):
        settled(batch)
