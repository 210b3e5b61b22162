"""Signals, gradients and Jacobians of given models against plain sums."""

from __future__ import annotations

import pytest
import torch
from propagation_rows import by_key, perceptron, randn, randomised, skips, squares
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spectrank.propagation import measure


def test_signals_and_angles_are_plain_means_over_a_loader() -> None:
    net, x = perceptron(), randn(37, 6, seed=1)
    loader = DataLoader(TensorDataset(x, torch.zeros(37)), batch_size=10)
    found = by_key(measure(net, loader, quantities=["signal", "angles"]))
    h, before = x, x
    # Pairs within batches of 10, 10, 10 and 7: the last sample has no partner.
    for index, module in enumerate(net):
        h = module(h)
        subject = f"{index - index % 2}.weight"
        site = "post" if index % 2 else "pre"
        r = squares(h) / squares(x)
        row = found[subject, "signal_gain", site]
        assert row["value"] == pytest.approx(float(r.mean()), rel=1e-10)
        assert row["standard_error"] == pytest.approx(
            float(r.std() / 37**0.5), rel=1e-9
        )
        assert row["num_samples"] == 37
        assert row["index"] == index // 2 + 1
        assert row["upper"] - row["value"] == pytest.approx(4 * row["standard_error"])
        per_neuron = found[subject, "signal_gain_per_neuron", site]["value"]
        assert per_neuron == pytest.approx(float(r.mean()) * 6 / h.shape[1], rel=1e-10)
        second = found[subject, "signal_second_moment", site]["value"]
        assert second == pytest.approx(float((r**2).mean() / r.mean() ** 2), rel=1e-9)
        logs = r.log()
        mean = found[subject, "log_signal_mean", site]["value"]
        assert mean == pytest.approx(float(logs.mean()), rel=1e-9)
        variance = found[subject, "log_signal_variance", site]["value"]
        assert variance == pytest.approx(float(logs.var()), rel=1e-8)
        own = squares(h) / squares(before)
        relative = found[subject, "layer_relative_variance", site]["value"]
        assert relative == pytest.approx(
            float(own.var(correction=0) / own.mean() ** 2), rel=1e-8
        )
        pairs = F.cosine_similarity(h[0:36:2], h[1:36:2])
        row = found[subject, "cosine", site]
        assert row["value"] == pytest.approx(float(pairs.mean()), rel=1e-10)
        assert row["num_samples"] == 18
        if site == "pre":
            dots = (h[0:36:2] * h[1:36:2]).sum(1)
            size = squares(h[0:36:2]) * squares(h[1:36:2])
            row = found[subject, "squared_cosine", "annealed"]
            plain = float((dots**2).mean() / size.mean())
            assert row["value"] == pytest.approx(plain, rel=1e-9)
        if index % 2:
            before = h
    assert ("4.weight", "signal_gain", "post") not in found
    assert found["input", "cosine", "pre"]["index"] == 0


class Image(nn.Module):
    """One number to an image, convolutions, a residual sum, one number out."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(1, 32)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.again = nn.Conv2d(3, 3, 3, stride=2, groups=3)
        self.last = nn.Linear(3, 1)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        a = self.start(x)
        b = self.conv(a.reshape(-1, 2, 4, 4))
        c = self.norm(b).relu()
        d = self.again(c)
        e = torch.tanh(d) + c[..., :1, :1]
        f = self.last(e.flatten(1))
        return {
            "start": a,
            "conv": b,
            "act": c,
            "again": d,
            "tanh": d.tanh(),
            "last": f,
        }

    def forward(self, x: Tensor) -> Tensor:
        a = self.start(x).reshape(-1, 2, 4, 4)
        c = self.act(self.norm(self.conv(a)))
        return self.last((torch.tanh(self.again(c)) + c[..., :1, :1]).flatten(1))


# With one number in and one out there is one direction, up to its sign, on both sides.
def test_gradients_and_tangents_of_a_convolutional_net_are_those_of_the_jacobian() -> (
    None
):
    net, x = randomised(Image()), randn(5, 1, seed=2)
    net.norm.running_var.fill_(1.7)
    table = measure(net, x, num_directions=2)
    found = by_key(table)
    net.eval()
    tangents: dict[str, list[Tensor]] = {}
    for sample in x:
        for name, value in net.parts(sample[None]).items():

            def part(t: Tensor, name: str = name) -> Tensor:
                return net.parts(t)[name]

            J = jacobian(part, sample[None]).reshape(value.numel(), -1)
            tangents.setdefault(name, []).append(J.square().sum())
    for name in ("start", "conv", "again", "last"):
        gains = torch.stack(tangents[name])
        row = found[f"{name}.weight", "jacobian_gain", None]
        assert row["value"] == pytest.approx(float(gains.mean()), rel=1e-9)
        assert row["num_samples"] == 5
        second = found[f"{name}.weight", "jacobian_second_moment", None]["value"]
        assert second == pytest.approx(
            float((gains**2).mean() / gains.mean() ** 2), rel=1e-9
        )
        length = found[f"{name}.weight", "length_gain", "pre"]["value"]
        assert length == pytest.approx(float(gains.sqrt().mean()), rel=1e-9)
    for layer, name in (("conv", "act"), ("again", "tanh")):
        length = found[f"{layer}.weight", "length_gain", "post"]["value"]
        plain = torch.stack(tangents[name]).sqrt().mean()
        assert length == pytest.approx(float(plain), rel=1e-9)
        post = squares(net.parts(x)[name]) / squares(x)
        gain = found[f"{layer}.weight", "signal_gain", "post"]["value"]
        assert gain == pytest.approx(float(post.mean()), rel=1e-9)

    # f as a function of the input of each layer, through that layer alone.
    parts = net.parts(x)
    c = parts["act"]
    paths = {
        "start": (x, net),
        "conv": (
            parts["start"].reshape(-1, 2, 4, 4),
            lambda h: net.last(
                (
                    torch.tanh(net.again(net.norm(net.conv(h)).relu()))
                    + net.norm(net.conv(h)).relu()[..., :1, :1]
                ).flatten(1)
            ),
        ),
        "again": (
            c,
            lambda h: net.last(
                (torch.tanh(net.again(h)) + c[..., :1, :1].detach()).flatten(1)
            ),
        ),
        "last": ((parts["again"].tanh() + c[..., :1, :1]).flatten(1), net.last),
    }
    for name, (at, path) in paths.items():
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(path(at).sum(), at)
        row = found[f"{name}.weight", "gradient_gain", None]
        assert row["value"] == pytest.approx(float(squares(gradient).mean()), rel=1e-9)
    reason = skips(table)["start.weight", "signal_gain", "post"]
    assert "conv2d and no activation follows" in reason


def test_cotangents_are_the_logits_or_one_vector_or_random() -> None:
    net, x = perceptron(), randn(8, 6, seed=3)
    h1 = net[:2](x)
    h2 = net[2:4](h1)
    inputs = {"0.weight": (x, net), "2.weight": (h1, net[2:]), "4.weight": (h2, net[4])}
    v = randn(4, seed=4)
    logits, fixed, drawn = (
        by_key(measure(net, x, quantities=["gradients"], num_directions=k, **options))
        for options, k in (
            ({"cotangents": "logits"}, 1),
            ({"cotangents": v}, 1),
            ({}, 100),
        )
    )
    for subject, (at, path) in inputs.items():
        J = torch.stack([jacobian(path, a[None])[0, :, 0] for a in at])
        per_logit = J.square().sum(2)
        row = logits[subject, "gradient_gain", None]
        assert row["value"] == pytest.approx(float(per_logit.mean()), rel=1e-10)
        second = logits[subject, "gradient_second_moment", None]["value"]
        plain = float(per_logit.square().mean() / per_logit.mean() ** 2)
        assert second == pytest.approx(plain, rel=1e-9)
        along = torch.einsum("nci,c->ni", J, v / v.norm()).square().sum(1)
        value = fixed[subject, "gradient_gain", None]["value"]
        assert value == pytest.approx(float(along.mean()), rel=1e-10)
        # E over uniform v: ||J||_F^2 / c; 100 draws for each of 8 fixed inputs. The
        # mean over draws of one input scatters by sqrt 2 ||J J^T||_F / c at most.
        truth = per_logit.sum(1).mean() / 4
        spread = torch.stack([(j @ j.T).norm() * 2**0.5 / 4 for j in J])
        error = float((spread.square().sum() / 100).sqrt() / 8)
        row = drawn[subject, "gradient_gain", None]
        assert abs(row["value"] - float(truth)) < 4 * error
        assert row["num_samples"] == 8


def test_the_digits_through_a_small_convolutional_net() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images = torch.from_numpy(datasets.load_digits().images[:24]).float()[:, None] / 16
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten()),
        nn.Linear(36, 10),
    )
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.3 * randn(*p.shape, seed=i))
    net.requires_grad_(False)
    table = measure(net, (images, torch.zeros(24)), cotangents="logits")
    found = by_key(table)
    J = jacobian(net, images[:, None].flatten(0, 1))
    own = torch.stack([J[i, :, i].flatten(1).square().sum(1) for i in range(24)])
    row = found["0.weight", "gradient_gain", None]
    assert row["value"] == pytest.approx(float(own.mean()), rel=1e-5)
    z = net[0](images)
    for site, h in (("pre", z), ("post", F.gelu(z))):
        value = found["0.weight", "signal_gain", site]["value"]
        plain = (squares(h.double()) / squares(images.double())).mean()
        assert value == pytest.approx(float(plain), rel=1e-5)
    assert found["4.weight", "signal_gain_per_neuron", "pre"]["n"] == 36
