"""Reductions against autograd: factor times the mean's gradient is the sum's.

The left side is always torch's own loss as a user would train it.
"""

import math

import pytest
import torch
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.model.losses import LOSS_NAMES, Loss, UnknownLoss, describe_loss

N, C = 7, 4


def draw(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def classes(*shape, count=C, ignore=None, seed=2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(count, shape, generator=generator)
    if ignore is not None:
        labels.flatten()[::3] = ignore
    return labels


WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
PROBABILITIES = torch.softmax(draw(N, C, seed=3), 1)
SIGNS = torch.where(draw(N, C, seed=4) > 0, 1.0, -1.0).double()
MULTILABEL = torch.tensor([[1, 3, -1, 0]] * N)

CASES = {
    "cross entropy": (nn.CrossEntropyLoss, {}, draw(N, C), classes(N)),
    "ignored": (nn.CrossEntropyLoss, {}, draw(N, C), classes(N, ignore=-100)),
    "other index": (
        nn.CrossEntropyLoss,
        {"ignore_index": 2},
        draw(N, C),
        classes(N),
    ),
    "weighted": (
        nn.CrossEntropyLoss,
        {"weight": WEIGHT},
        draw(N, C),
        classes(N, ignore=-100),
    ),
    "smoothed": (
        nn.CrossEntropyLoss,
        {"label_smoothing": 0.2, "weight": WEIGHT},
        draw(N, C),
        classes(N, ignore=-100),
    ),
    "images": (
        nn.CrossEntropyLoss,
        {},
        draw(2, C, 3, 5),
        classes(2, 3, 5, ignore=-100),
    ),
    "square images": (nn.CrossEntropyLoss, {}, draw(2, C, C), classes(2, C)),
    "probabilities": (
        nn.CrossEntropyLoss,
        {"weight": WEIGHT, "label_smoothing": 0.1},
        draw(N, C),
        PROBABILITIES,
    ),
    "one sample": (nn.CrossEntropyLoss, {}, draw(C), torch.tensor(2)),
    "one distribution": (nn.CrossEntropyLoss, {}, draw(C), PROBABILITIES[0]),
    "nll": (nn.NLLLoss, {"weight": WEIGHT}, draw(N, C), classes(N, ignore=-100)),
    "mse": (nn.MSELoss, {}, draw(N, C), draw(N, C, seed=5)),
    "mse of images": (nn.MSELoss, {}, draw(2, 3, 5), draw(2, 3, 5, seed=5)),
    "l1": (nn.L1Loss, {}, draw(N, C), draw(N, C, seed=5)),
    "smooth l1": (nn.SmoothL1Loss, {"beta": 0.4}, draw(N, C), draw(N, C, seed=5)),
    "huber": (nn.HuberLoss, {"delta": 0.4}, draw(N, C), draw(N, C, seed=5)),
    "bce": (nn.BCELoss, {"weight": WEIGHT}, draw(N, C).sigmoid(), PROBABILITIES),
    "bce with logits": (
        nn.BCEWithLogitsLoss,
        {"pos_weight": WEIGHT},
        draw(N, C),
        PROBABILITIES,
    ),
    "kl": (nn.KLDivLoss, {}, draw(N, C), PROBABILITIES),
    "poisson": (nn.PoissonNLLLoss, {}, draw(N, C), PROBABILITIES),
    "soft margin": (nn.SoftMarginLoss, {}, draw(N, C), SIGNS),
    "hinge": (nn.HingeEmbeddingLoss, {}, draw(N, C), SIGNS),
    "multi margin": (nn.MultiMarginLoss, {}, draw(N, C), classes(N)),
    "multi label margin": (nn.MultiLabelMarginLoss, {}, draw(N, C), MULTILABEL),
    "multi label soft margin": (
        nn.MultiLabelSoftMarginLoss,
        {},
        draw(N, C),
        (SIGNS + 1) / 2,
    ),
}


def gradient(function, outputs, targets):
    outputs = outputs.clone().requires_grad_()
    return torch.autograd.grad(function(outputs, targets), outputs)[0]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("case", CASES)
def test_factor_times_the_gradient_as_trained_is_the_gradient_of_the_sum(
    case, reduction
):
    kind, options, outputs, targets = CASES[case]
    trained = kind(**options, reduction=reduction)
    loss = describe_loss(trained)
    assert isinstance(loss, Loss)
    factor = loss.mean_factor(outputs, targets)
    assert (factor == 1.0) is (reduction == "sum" or case.startswith("one "))
    expected = gradient(kind(**options, reduction="sum"), outputs, targets)
    assert torch.allclose(
        gradient(loss.sum_loss, outputs, targets), expected, rtol=0, atol=FLOAT64
    )
    as_trained = gradient(trained, outputs, targets)
    assert torch.allclose(factor * as_trained, expected, rtol=0, atol=FLOAT64)
    assert trained.reduction == reduction


def test_batchmean_divides_by_the_samples_alone():
    loss = describe_loss(nn.KLDivLoss(reduction="batchmean"))
    assert loss.mean_factor(draw(N, C), PROBABILITIES) == N
    as_trained = gradient(
        nn.KLDivLoss(reduction="batchmean"), draw(N, C), PROBABILITIES
    )
    summed = gradient(loss.sum_loss, draw(N, C), PROBABILITIES)
    assert torch.allclose(N * as_trained, summed, rtol=0, atol=FLOAT64)


def test_factors_in_numbers():
    x, y = draw(N, C), classes(N, ignore=-100)
    assert describe_loss(nn.MSELoss()).mean_factor(x, draw(N, C)) == N * C
    assert describe_loss(nn.CrossEntropyLoss()).mean_factor(x, classes(N)) == N
    assert describe_loss(nn.CrossEntropyLoss()).mean_factor(x, y) == 4
    weighted = describe_loss(nn.CrossEntropyLoss(weight=WEIGHT))
    expected = sum(float(WEIGHT[k]) for k in y.tolist() if k >= 0)
    assert weighted.mean_factor(x, y) == pytest.approx(expected, rel=FLOAT64)
    # False friend: with class probabilities the weights do not enter the divisor.
    assert weighted.mean_factor(x, PROBABILITIES) == N
    none = torch.full((N,), -100)
    assert describe_loss(nn.CrossEntropyLoss()).mean_factor(x, none) == 0
    assert describe_loss("mse", reduction="sum").mean_factor(x, draw(N, C)) == 1


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cross_entropy", F.cross_entropy),
        ("nll", F.nll_loss),
        ("mse", F.mse_loss),
        ("l1", F.l1_loss),
        ("smooth_l1", F.smooth_l1_loss),
        ("huber", F.huber_loss),
        ("bce", F.binary_cross_entropy),
        ("bce_with_logits", F.binary_cross_entropy_with_logits),
    ],
)
def test_a_name_and_the_function_of_that_name_are_one_loss(name, function):
    outputs = torch.rand(N, C, dtype=torch.float64, generator=_seeded(7))
    targets = classes(N) if name in {"cross_entropy", "nll"} else PROBABILITIES
    for loss in (describe_loss(name), describe_loss(function)):
        factor = loss.mean_factor(outputs, targets)
        summed = gradient(loss.sum_loss, outputs, targets)
        expected = factor * gradient(function, outputs, targets)
        assert torch.allclose(summed, expected, rtol=0, atol=FLOAT64)
        assert loss.name == name


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_margin_losses_by_hand(shape):
    f, y = draw(*shape), SIGNS[:, 0]
    logistic, exponential = describe_loss("logistic"), describe_loss("exponential")
    pairs = list(zip(f.flatten().tolist(), y.tolist(), strict=True))
    by_hand = sum(math.log1p(math.exp(-a * b)) for a, b in pairs)
    assert float(logistic.sum_loss(f, y)) == pytest.approx(by_hand, rel=FLOAT64)
    by_hand = sum(math.exp(-a * b) for a, b in pairs)
    assert float(exponential.sum_loss(f, y)) == pytest.approx(by_hand, rel=FLOAT64)
    assert logistic.mean_factor(f, y) == N
    assert describe_loss("logistic", reduction="sum").mean_factor(f, y) == 1
    with pytest.raises(DomainError, match=r"labels -1 and \+1, got \[0.0, 1.0\]"):
        logistic.sum_loss(f, (y + 1) / 2)
    with pytest.raises(ShapeError, match="one output per sample"):
        logistic.sum_loss(draw(N, C), SIGNS)


def test_causal_cross_entropy_compares_with_the_next_label():
    logits, labels = draw(2, 5, C), classes(2, 5, ignore=-100)
    loss = describe_loss("causal_cross_entropy")
    total, count = 0.0, 0
    for n in range(2):
        for t in range(4):
            label = int(labels[n, t + 1])
            if label >= 0:
                total -= float(torch.log_softmax(logits[n, t], 0)[label])
                count += 1
    assert float(loss.sum_loss(logits, labels)) == pytest.approx(total, rel=FLOAT64)
    assert loss.mean_factor(logits, labels) == count
    with pytest.raises(ShapeError, match=r"needs outputs \(N, T, V\)"):
        loss.sum_loss(draw(N, C), classes(N))


def test_classes_may_stand_last_as_models_of_tokens_give_them():
    logits, labels = draw(3, 5, C), classes(3, 5, ignore=-100)
    for loss in (describe_loss("cross_entropy"), describe_loss(nn.CrossEntropyLoss())):
        expected = F.cross_entropy(logits.mT, labels, reduction="sum")
        assert torch.allclose(loss.sum_loss(logits, labels), expected, rtol=FLOAT64)
        assert loss.mean_factor(logits, labels) == int((labels >= 0).sum())
    square, labels = draw(3, C, C), classes(3, C)
    with pytest.raises(ShapeError, match="both fit"):
        describe_loss("cross_entropy").sum_loss(square, labels)


def test_a_column_of_outputs_is_not_broadcast_against_a_row_of_targets():
    outputs, targets = draw(N, 1), draw(N, seed=9)
    expected = float((outputs.flatten() - targets).square().sum())
    for loss in (describe_loss("mse"), describe_loss(nn.MSELoss())):
        value = float(loss.sum_loss(outputs, targets))
        assert value == pytest.approx(expected, rel=FLOAT64)
        assert loss.mean_factor(outputs, targets) == N
        swapped = float(loss.sum_loss(targets, outputs))
        assert swapped == pytest.approx(expected, rel=FLOAT64)
    with pytest.raises(ShapeError, match=r"outputs' shape \(7, 4\), got \(7,\)"):
        describe_loss("mse").sum_loss(draw(N, C), classes(N))


class Doubled(nn.MSELoss):
    def forward(self, outputs, targets):
        return 2 * super().forward(outputs, targets)


class Own(nn.Module):
    def forward(self, outputs, targets):
        return outputs.sum()


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (Doubled(), "subclass of MSELoss"),
        (Own(), "no loss of torch.nn"),
        (nn.CTCLoss(), "more than outputs and targets"),
        (lambda o, t: o.sum(), "no loss of torch.nn"),
        (torch.sum, "no loss of torch.nn"),
    ],
)
def test_what_a_loss_divides_by_is_not_guessed(loss, reason):
    found = describe_loss(loss)
    assert isinstance(found, UnknownLoss)
    assert reason in found.reason


def test_refusals():
    loss = describe_loss(nn.MSELoss(reduction="none"))
    assert loss.reduction == "none"
    with pytest.raises(DomainError, match="must be reduced"):
        loss.mean_factor(draw(N, C), draw(N, C))
    with pytest.raises(UnknownNameError, match="one of cross_entropy, nll, mse"):
        describe_loss("hinge")


def test_every_name_gives_a_loss():
    assert all(isinstance(describe_loss(name), Loss) for name in LOSS_NAMES)
