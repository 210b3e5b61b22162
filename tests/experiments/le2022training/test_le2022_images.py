"""Networks on images: what the steps are told to add to a law, and each claim."""

import numpy as np
import pytest
import torch

from spectrank.experiments.images import Images, Split
from spectrank.experiments.le2022training.images import training
from spectrank.experiments.le2022training.images.training import ImagesSize

SIZE = ImagesSize(Images("digits", 300, 10, spatial=True), 3)


def split():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 1, 8, 8, generator=generator)
    return Split(inputs, torch.arange(60) % 10)


@pytest.mark.parametrize("name", ["binary", "cnn"])
def test_laws_are_explained_by_their_steps_and_by_nothing_less(name, monkeypatch):
    monkeypatch.setattr(training, "_STEPS", 4)
    monkeypatch.setattr(training, "_CHECKPOINTS", 1)
    told = training._trained(name, split(), 2, 0)[0]
    assert told[training._RESIDUAL] < 1e-12
    assert told[training._DRIFT] > 1e-6
    assert told[training._EXCESS] <= 1e-12
    monkeypatch.setattr(training, "_advance", lambda *_: None)
    untold = training._trained(name, split(), 2, 0)[0]
    assert untold[training._RESIDUAL] == untold[training._DRIFT]
    assert untold[training._DRIFT] == told[training._DRIFT]


def test_the_binary_loss_is_the_logistic_one_of_digits_below_five():
    data = split()
    net = training.draw("binary", 8, torch.Generator().manual_seed(1))
    found = training._gradients(net, "binary", data.inputs.double(), data.labels)
    sign = torch.where(data.labels < 5, 1.0, -1.0).double()
    loss = torch.log(1 + torch.exp(-sign * net(data.inputs.double())[:, 0])).mean()
    loss.backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize(
    ("quantity", "value", "fails"),
    [
        (training._RESIDUAL, 1e-6, "laws-explained-cnn"),
        (training._EXCESS, 0.1, "certificate-cnn"),
    ],
)
def test_each_claim_fails_where_its_number_does(quantity, value, fails):
    y = np.full((3, 4, training._CHECKPOINTS, 5), 1e-14)
    y *= 1.0 + 0.1 * np.arange(3)[:, None, None, None]
    y[..., training._EXCESS] = -0.1

    def failing():
        rows = [question.rows(y, 0)[0] for question in training.questions(SIZE)]
        return {
            row["subject"].split(".")[-1]
            for row in rows
            if row["verdict"] != "reproduced"
        }

    assert failing() == set()
    y[:, training._NETWORKS.index("cnn"), 1, quantity] = value
    assert failing() == {fails}
