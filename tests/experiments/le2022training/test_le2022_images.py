"""Networks on images: what is measured under watch, and each claim."""

import numpy as np
import pytest
import torch

from spectrank.experiments.images import Images, Split
from spectrank.experiments.le2022training.images import (
    measuring,
    networks,
    questions,
    training,
)
from spectrank.experiments.le2022training.images.measuring import Quantity
from spectrank.experiments.le2022training.images.training import ARMS, ImagesSize
from spectrank.invariance import find
from spectrank.invariance.laws import evaluate_all
from spectrank.model import graph

SIZE = ImagesSize(Images("digits", 300, 10, spatial=True), 3)


def arm(name):
    return next(each for each in ARMS if each.name == name)


def split(side=8):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 1, side, side, generator=generator)
    return Split(inputs, torch.arange(60) % 10)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 4)
    monkeypatch.setattr(training, "CHECKPOINTS", 2)


def by_hand(each, data, seed, replicate, num_steps, rate):
    """Largest drift and distance to h(w) + eta^2 sum h(g), by plain SGD steps."""
    side = data.inputs.shape[-1]
    inputs = data.inputs.double()
    labels = training.labels_of(each.num_outputs, data.labels, replicate)
    generator = training.derive_generator(
        seed, training.KEY, training.NAME, each.network, each.num_outputs, replicate
    )
    net = networks.build(each.network, side, num_outputs=each.num_outputs)
    networks.draw_(net, generator)
    loss = None if each.num_outputs == 1 else "cross_entropy"
    laws = find(graph(net, inputs[:2]), loss=loss)
    weights = dict(net.named_parameters())
    first = {k: v.clone() for k, v in evaluate_all(laws, weights).items()}
    told = {k: v.clone() for k, v in first.items()}
    for _ in range(num_steps):
        chosen = torch.randperm(len(inputs), generator=generator)[: training.BATCH]
        out = training.loss_of(net(inputs[chosen]), labels[chosen])
        gradients = torch.autograd.grad(out, list(weights.values()))
        by_name = dict(zip(weights, gradients, strict=True))
        for k, v in evaluate_all(laws, by_name).items():
            told[k] += rate**2 * v if laws[k].form != "linear" else 0.0
        with torch.no_grad():
            for k, w in weights.items():
                w -= rate * by_name[k]
    now = evaluate_all(laws, {k: w.detach() for k, w in weights.items()})
    scale = {k: float(v.abs().max().clamp(min=1.0)) for k, v in first.items()}
    assert all(float((now[k] - told[k]).abs().max()) < 1e-12 * scale[k] for k in now)
    quadratic = [k for k in now if laws[k].form != "linear"]
    return max(float((now[k] - first[k]).abs().max()) / scale[k] for k in quadratic)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("name", "side", "rate"),
    [("one-versus-rest", 8, 0.05), ("cnn", 8, 0.05), ("cnn", 12, 0.05 / 2.25)],
)
def test_what_the_watch_says_is_what_plain_steps_do_to_the_laws(name, side, rate):
    found = training.trained(arm(name), split(side), 2, 1)
    assert found[:, Quantity.RIGHT].tolist() == [1.0, 1.0, 1.0]
    assert found[:, Quantity.SILENT].tolist() == [0.0, 0.0, 0.0]
    assert found[:, Quantity.RESIDUAL].max() < 1e-12
    for t, num_steps in ((1, 2), (2, 4)):
        drift = by_hand(arm(name), split(side), 2, 1, num_steps, rate)
        assert drift > 1e-6
        np.testing.assert_allclose(found[t, Quantity.DRIFT], drift, rtol=1e-6)


@pytest.mark.usefixtures("short")
def test_under_adam_the_watch_is_silent_while_gradients_obey_and_values_drift():
    found = training.trained(arm("mlp-adam"), split(), 2, 0)
    assert found[1:, Quantity.SILENT].tolist() == [1.0, 1.0]
    assert np.isnan(found[1:, Quantity.RESIDUAL]).all()
    assert found[1:, Quantity.STRUCTURE].max() < 1.0
    assert found[2, Quantity.DRIFT] > 1e-4
    # The start is that of the same network under SGD.
    stream = (training.KEY, training.NAME, "mlp", 10, 0)
    net = networks.build("mlp", 8, num_outputs=10)
    networks.draw_(net, training.derive_generator(2, *stream))
    sigma = np.linalg.svd(net[6].weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(found[0, len(Quantity) :], sigma)


def test_the_rate_of_steps_on_kernels_falls_with_the_number_of_pixels():
    told = {q.claim.key: q.claim.protocol for q in questions.questions(SIZE)}
    mnist = ImagesSize(Images("mnist", 5, 10, spatial=True), 1)
    told |= {q.claim.key: q.claim.protocol for q in questions.questions(mnist)}
    # 784 pixels are 12.25 times 64.
    for name, said in (
        ("cnn", "SGD at rate 0.05 "),
        ("cnn.mnist", "SGD at rate 0.0041 "),
        ("cnn-momentum.mnist", "SGD at rate 0.00082, momentum 0.9, weight decay 5e-4 "),
        ("mlp.mnist", "SGD at rate 0.05 "),
        ("mlp-adam.mnist", "Adam at rate 0.001 "),
    ):
        protocol = told[f"le2022training.images.certificate-{name}"]
        assert f"300 steps of {said}on 50 images" in protocol
    net = torch.nn.Linear(2, 2)
    for name, rate in (("cnn", 0.0125), ("cnn-momentum", 0.0025), ("mlp", 0.05)):
        optimizer = training._optimizer(arm(name), net, 256)
        assert optimizer.defaults["lr"] == pytest.approx(rate, rel=1e-12)


def two_layers(num_outputs):
    net = networks.build("mlp", 8, num_outputs=num_outputs)
    networks.draw_(net, torch.Generator().manual_seed(3))
    return net


def test_ranks_and_spectrum_are_those_of_the_layer_below_the_last():
    net = two_layers(10)
    traced = graph(net, torch.zeros(2, 1, 8, 8).double())
    start = {k: p.detach().clone() for k, p in net.named_parameters()}
    laws = find(traced)
    found = measuring.tail_numbers(net, traced, laws, start, softmax=True)
    matrix = net[6].weight.detach().numpy()
    sigma = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(measuring.last_spectrum(net, traced), sigma)
    p = sigma / sigma.sum()
    expected = np.square(sigma).sum() / sigma[0] ** 2
    assert found[Quantity.STABLE_RANK] == pytest.approx(expected)
    entropy = -(p * np.log(p)).sum()
    assert found[Quantity.EFFECTIVE_RANK] == pytest.approx(np.exp(entropy))
    u, v = (np.linalg.svd(net[i].weight.detach().numpy()) for i in (6, 7))
    below, middle = (np.linalg.svd(net[i].weight.detach().numpy()) for i in (5, 6))
    cosines = (abs(u[0][:, 0] @ v[2][0]), abs(below[0][:, 0] @ middle[2][0]))
    assert found[Quantity.ALIGNED] == pytest.approx(min(cosines))
    assert found[Quantity.EXCESS] == 0.0


def test_any_change_of_a_weight_is_covered_by_its_drift():
    net = two_layers(1)
    traced = graph(net, torch.zeros(2, 1, 8, 8).double())
    start = {k: p.detach().clone() for k, p in net.named_parameters()}
    with torch.no_grad():
        net[6].weight *= 3.0
    laws = find(traced, loss=None)
    found = measuring.tail_numbers(net, traced, laws, start, softmax=False)
    assert found[Quantity.EXCESS] == 0.0
    assert 0.0 < found[Quantity.HOLDS] < 1.0


@pytest.mark.parametrize("num_outputs", [1, 10])
def test_margins_and_the_log_of_the_loss_are_those_of_the_outputs(num_outputs):
    net, data = two_layers(num_outputs), split()
    inputs = data.inputs.double()
    labels = training.labels_of(num_outputs, data.labels, 4)
    batches = [(inputs[:50], labels[:50]), (inputs[50:], labels[50:])]
    found, _ = measuring.data_numbers(net, batches, None)
    out = net(inputs).detach()
    if num_outputs == 1:
        sign = np.where(data.labels.numpy() == 4, 1.0, -1.0)
        margin = sign * out[:, 0].numpy()
        loss = np.log1p(np.exp(-margin)).mean()
    else:
        own = out.gather(1, labels[:, None])
        others = out.scatter(1, labels[:, None], -torch.inf)
        margin = (own - others.amax(1, keepdim=True)).numpy()
        loss = float(torch.nn.functional.cross_entropy(out, labels))
    assert found[Quantity.MARGIN] == pytest.approx(margin.min())
    assert found[Quantity.LOG_LOSS] == pytest.approx(np.log(loss))
    assert float(training.loss_of(out, labels)) == pytest.approx(loss)
    # Biases of upper layers: not homogeneous.
    assert np.isnan(found[Quantity.NORMALISED_MARGIN])


def test_switches_and_sign_flips_are_counted_between_checkpoints():
    net, data = two_layers(10), split()
    batches = [(data.inputs.double(), data.labels)]
    first, patterns = measuring.data_numbers(net, batches, None)
    assert np.isnan(first[Quantity.SWITCHED])
    before = [net[:i](data.inputs.double()) > 0 for i in (2, 4)]
    with torch.no_grad():
        net[1].weight[:3] *= -1.0
    found, _ = measuring.data_numbers(net, batches, patterns)
    after = [net[:i](data.inputs.double()) > 0 for i in (2, 4)]
    switched = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    assert switched > 0
    assert found[Quantity.SWITCHED] == pytest.approx(switched / (60 * (32 + 24)))
    assert found[Quantity.SIGN_FLIPS] == 3 * 64


def test_twins_are_one_class_and_stable_units_are_left_out():
    net, data = two_layers(10), split()
    with torch.no_grad():
        net[1].bias[5] = -1e3
        net[1].bias[6] = 1e3
        net[1].weight[8], net[1].bias[8] = net[1].weight[7], net[1].bias[7]
    found, _ = measuring.data_numbers(net, [(data.inputs.double(), data.labels)], None)
    # 32 + 24 units, of the first layer two stable and two alike, in the second layer
    # unit by unit.
    active = net[:4](data.inputs.double()) > 0
    patterns = {tuple(column.tolist()) for column in active.T}
    mixed = patterns - {(False,) * 60, (True,) * 60}
    units = sum(0 < int(column.sum()) < 60 for column in active.T)
    assert found[Quantity.CLASSES] == pytest.approx((29 + len(mixed)) / (30 + units))


def answered(y):
    rows = [question.rows(y, 0)[0] for question in questions.questions(SIZE)]
    return {
        row["subject"].removeprefix("le2022training.images.")
        for row in rows
        if row["verdict"] != "reproduced"
    }


def good():
    """Answers under which every claim holds, a little different in each draw."""
    shape = (3, len(ARMS), training.CHECKPOINTS + 1, measuring.NUM_NUMBERS)
    y = np.ones(shape)
    wobble = 1.0 + 0.01 * np.arange(3)[:, None, None]
    y[..., Quantity.RESIDUAL] = 1e-14 * wobble
    y[..., Quantity.DRIFT] = 1e-2 * wobble
    y[..., Quantity.STRUCTURE] = 0.1 * wobble
    y[..., Quantity.EXCESS] = 0.0
    y[..., Quantity.STABLE_RANK] = 5.0 * wobble
    y[..., Quantity.MARGIN] = np.arange(shape[2]) * wobble
    y[..., Quantity.SWITCHED] = 0.1 ** np.arange(shape[2]) * wobble
    y[..., Quantity.SIGN_FLIPS] = 5.0
    return y


@pytest.mark.parametrize(
    ("quantity", "at", "value", "fails"),
    [
        (Quantity.RIGHT, 1, 0.9, {"laws-right-cnn"}),
        (Quantity.RESIDUAL, 1, 1e-6, {"laws-explained-cnn"}),
        (Quantity.DRIFT, -1, 1e-9, {"laws-drift-cnn"}),
        (Quantity.EXCESS, 2, 0.1, {"certificate-cnn"}),
        (Quantity.STABLE_RANK, -1, 2.0, {"rank-stays-cnn"}),
        (Quantity.MARGIN, -1, -5.0, {"margin-grows-cnn"}),
        (Quantity.SWITCHED, -1, 1.0, {"patterns-settle-cnn"}),
        (Quantity.SIGN_FLIPS, -1, 0.0, {"signs-not-stable-cnn"}),
        (Quantity.CLASSES, 3, 0.5, {"patterns-differ-cnn"}),
    ],
)
def test_each_claim_fails_where_its_number_does(quantity, at, value, fails):
    y = good()
    assert answered(y) == set()
    y[:, ARMS.index(arm("cnn")), at, quantity] = value
    assert answered(y) == fails


@pytest.mark.parametrize(
    ("quantity", "value", "fails"),
    [
        (Quantity.SILENT, 0.9, "watch-silent-mlp-adam"),
        (Quantity.STRUCTURE, 2.0, "structure-mlp-adam"),
    ],
)
def test_so_do_those_of_adam(quantity, value, fails):
    y = good()
    y[:, ARMS.index(arm("mlp-adam")), 2, quantity] = value
    assert answered(y) == {fails}
