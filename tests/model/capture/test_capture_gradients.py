"""Captured derivatives against autograd on forwards written out by hand."""

import pytest
import torch
from tolerances import FLOAT64
from torch import nn
from torch.nn import functional as F

from spectrank.model.capture import capture
from spectrank.model.losses import describe_loss

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


@pytest.mark.parametrize("inplace", [False, True])
def test_inputs_outputs_and_deltas_are_those_of_the_forward_by_hand(inplace):
    model, x, y = seeded(lambda: mlp(inplace)), draw(N, 5), labels()
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    (w1, b1), (w2, b2), (w3, b3) = (
        (layer.weight.detach(), layer.bias.detach()) for layer in model[::2]
    )
    for i in range(N):
        # One sample at a time, in plain algebra.
        z1 = (w1 @ x[i] + b1).requires_grad_()
        z2 = w2 @ (z1 * (z1 > 0)) + b2
        z3 = w3 @ torch.tanh(z2) + b3
        loss = torch.logsumexp(z3, 0) - z3[y[i]]
        deltas = torch.autograd.grad(loss, (z1, z2, z3))
        inputs = (x[i], z1 * (z1 > 0), torch.tanh(z2))
        for name, z, h, delta in zip("024", (z1, z2, z3), inputs, deltas, strict=True):
            seen = batch[name]
            assert close(seen.outputs[i], z.detach())
            assert close(seen.inputs[i], h.detach())
            assert close(seen.output_gradients[i], delta)
    total = F.cross_entropy(model(x), y, reduction="sum")
    assert close(batch.loss, total.detach())
    assert close(batch.outputs, model(x).detach())


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("cross_entropy", labels()),
        (nn.CrossEntropyLoss(label_smoothing=0.1), labels()),
        ("mse", draw(N, C, seed=3)),
        (nn.MSELoss(), draw(N, C, seed=3)),
        ("bce_with_logits", draw(N, C, seed=3).sigmoid()),
        (nn.BCEWithLogitsLoss(reduction="none"), draw(N, C, seed=3).sigmoid()),
        (F.l1_loss, draw(N, C, seed=3)),
    ],
)
def test_delta_z_adds_up_to_the_weight_gradient_of_the_summed_loss(loss, targets):
    model, x = seeded(mlp), draw(N, 5)
    batch = first_batch(model, (x, targets), gradients="loss", loss=loss)
    summed = describe_loss(loss).sum_loss(model(x), targets)
    for name, layer in (("0", model[0]), ("2", model[2]), ("4", model[4])):
        seen = batch[name]
        outer = seen.gradient_rows().T @ seen.input_rows()
        assert close(outer, weight_gradient_of(summed, layer))


def weight_gradient_of(loss, layer):
    return torch.autograd.grad(loss, layer.weight, retain_graph=True)[0]


@pytest.mark.parametrize("loss", ["logistic", "exponential"])
def test_margin_losses_give_minus_y_times_the_sigmoid_of_the_margin(loss):
    model = seeded(lambda: nn.Linear(5, 1))
    x, y = draw(N, 5), torch.where(draw(N, seed=4) > 0, 1, -1)
    batch = first_batch(model, (x, y), "", gradients="loss", loss=loss)
    f = model(x).detach().flatten()
    slope = -y * (torch.sigmoid(-y * f) if loss == "logistic" else torch.exp(-y * f))
    assert close(batch[""].output_gradients.flatten(), slope)


CONVOLUTIONS = {
    "plain": (nn.Conv2d, (2, 4, 3), {}, (N, 2, 6, 5)),
    "strided": (nn.Conv2d, (2, 4, (3, 2)), {"stride": (2, 1)}, (N, 2, 6, 5)),
    "padded": (nn.Conv2d, (2, 4, 3), {"padding": (1, 2)}, (N, 2, 6, 5)),
    "dilated": (nn.Conv2d, (2, 4, 2), {"dilation": (2, 3)}, (N, 2, 6, 5)),
    "same": (nn.Conv2d, (2, 4, (2, 3)), {"padding": "same"}, (N, 2, 6, 5)),
    "valid": (nn.Conv2d, (2, 4, 3), {"padding": "valid"}, (N, 2, 6, 5)),
    "circular": (
        nn.Conv2d,
        (2, 4, 3),
        {"padding": (1, 2), "padding_mode": "circular"},
        (N, 2, 6, 5),
    ),
    "one": (nn.Conv1d, (3, 4, 3), {"padding": 1, "stride": 2}, (N, 3, 9)),
    "three": (nn.Conv3d, (2, 3, 2), {"padding": 1}, (N, 2, 3, 4, 3)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_delta_times_patches_is_the_kernel_gradient(case):
    kind, shape, options, size = CONVOLUTIONS[case]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = kind(*shape, **options)
            self.head = nn.LazyLinear(C)

        def forward(self, x):
            return self.head(torch.tanh(self.conv(x)).flatten(1))

    def build():
        model = Net()
        model(torch.zeros(size))
        return model

    model, x, y = seeded(build), draw(*size), labels()
    seen = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")["conv"]
    expected = weight_gradient(
        F.cross_entropy(model(x), y, reduction="sum"), model.conv.weight
    )
    outer = seen.gradient_rows().T @ seen.input_rows(unfold=True)
    assert close(outer, expected.flatten(1), 10.0)
    # The convolution itself, patch by patch.
    product = seen.input_rows(unfold=True) @ model.conv.weight.detach().flatten(1).T
    bias = model.conv.bias.detach()
    assert close(product + bias, seen.output_rows(), 10.0)


def test_a_grouped_convolution_reads_its_block_of_the_patches():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 4 * 3, C)
        )
    )
    x, y = draw(N, 4, 6, 5), labels()
    seen = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")["0"]
    loss = F.cross_entropy(model(x), y, reduction="sum")
    expected = weight_gradient(loss, model[0].weight).flatten(1)
    deltas = seen.gradient_rows().chunk(2, dim=1)
    blocks = seen.input_rows(unfold=True).chunk(2, dim=1)
    outer = torch.cat([d.T @ p for d, p in zip(deltas, blocks, strict=True)])
    assert close(outer, expected, 10.0)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Linear(5, 4)
        self.again = nn.Linear(4, 4)
        self.end = nn.Linear(4, C)

    def forward(self, x):
        h = torch.tanh(self.start(x))
        h = h + torch.tanh(self.again(h))
        h = h + torch.tanh(self.again(h))
        return self.end(h)


def test_a_layer_used_twice_has_two_records_that_add_up_to_its_gradient():
    model, x, y = seeded(Twice), draw(N, 5), labels()
    batch = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")
    calls = batch.calls("again")
    assert [seen.call for seen in calls] == [0, 1]
    expected = weight_gradient(
        F.cross_entropy(model(x), y, reduction="sum"), model.again.weight
    )
    parts = [seen.gradient_rows().T @ seen.input_rows() for seen in calls]
    assert close(sum(parts), expected)
    # One use alone is not the gradient.
    assert not close(parts[0], expected, 1e6)
    h1 = torch.tanh(model.start(x)).detach()
    assert close(calls[0].inputs, h1)
    assert close(calls[1].inputs, h1 + torch.tanh(calls[0].outputs))


def test_frozen_parameters_have_the_same_deltas():
    model, x, y = seeded(mlp), draw(N, 5), labels()
    options = {"gradients": "loss", "loss": "cross_entropy"}
    free = first_batch(model, (x, y), **options)
    model.requires_grad_(False)
    frozen = first_batch(model, (x, y), **options)
    for name in ("0", "2", "4"):
        assert torch.equal(free[name].output_gradients, frozen[name].output_gradients)
        assert float(free[name].output_gradients.abs().max()) > 1e-3
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("outputs", [1, C])
def test_logit_gradients_are_the_jacobians_of_every_sample(outputs):
    model = seeded(
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, outputs))
    )
    x = draw(N, 5)
    batch = first_batch(model, x, gradients="logits")
    seen = batch["0"]
    assert seen.output_gradients.shape == (outputs, N, 7)

    def rest(z):
        return model[2](torch.tanh(z))

    jacobian = torch.func.vmap(torch.func.jacrev(rest))(model[0](x)).detach()
    assert close(seen.output_gradients, jacobian.transpose(0, 1))
    eye = torch.eye(outputs, dtype=torch.float64)
    assert close(batch["2"].output_gradients, eye[:, None].expand(-1, N, -1))
    assert close(seen.gradient_rows(), seen.output_gradients)


def test_logit_gradients_and_inputs_make_the_tangent_kernel():
    # K = sum over layers and logits of <h, h'> <d, d'>, with biases one more.
    model, x = seeded(mlp), draw(N, 5)
    batch = first_batch(model, x, gradients="logits")
    kernel = torch.zeros(N, N, dtype=torch.float64)
    for name in ("0", "2", "4"):
        d, h = batch[name].gradient_rows(), batch[name].input_rows()
        kernel += (h @ h.T + 1.0) * torch.einsum("kid,kjd->ij", d, d)
    parameters = dict(model.named_parameters())

    def f(p, sample):
        return torch.func.functional_call(model, p, (sample,))

    jacobians = torch.func.vmap(torch.func.jacrev(f), (None, 0))(parameters, x)
    flat = torch.cat([j.detach().flatten(2) for j in jacobians.values()], 2)
    assert close(kernel, torch.einsum("ikp,jkp->ij", flat, flat), 100.0)


def test_one_logit_per_sample_may_come_without_an_axis():
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)))
    seen = first_batch(model, draw(N, 5), gradients="logits")["0"]
    assert close(seen.output_gradients, torch.ones(1, N, 1, dtype=torch.float64))


def test_without_batch_coupling_a_delta_does_not_depend_on_the_batch():
    model, x, y = seeded(mlp), draw(N, 5), labels()
    with capture(model, gradients="loss", loss="cross_entropy") as taps:
        alone = [
            b["0"].output_gradients
            for b in taps.over(zip(x[:, None], y[:, None], strict=True))
        ]
        (together,) = [b["0"].output_gradients for b in taps.over([(x, y)])]
    assert close(torch.cat(alone), together)


def test_signs_are_strictly_positive_outputs():
    model = nn.Linear(1, 4, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [0.0], [-1.0], [float("nan")]]))
    batch = first_batch(model, torch.tensor([[1.0], [-0.0], [-2.0]]).double(), "")
    assert batch[""].signs.tolist() == [
        [True, False, False, False],
        [False, False, False, False],
        [False, False, True, False],
    ]


def test_a_callable_loss_sees_the_raw_output_and_the_batch():
    model, x, y = seeded(mlp), draw(N, 5), labels()
    weights = draw(N, seed=5).abs()

    def loss(outputs, batch):
        inputs, targets, w = batch
        assert torch.equal(inputs, x)
        return (w * F.cross_entropy(outputs, targets, reduction="none")).sum()

    seen = first_batch(model, (x, y, weights), gradients="loss", loss=loss)["0"]
    plain = first_batch(model, (x, y), gradients="loss", loss="cross_entropy")["0"]
    assert close(seen.output_gradients, weights[:, None] * plain.output_gradients)
