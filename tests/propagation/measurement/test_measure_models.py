"""Rows of given models against dense Jacobians and plain sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.model.capture.unpack import ModelCall
from spectrank.propagation import measure
from spectrank.table import Table

Key = tuple[str, str, str | None]


def by_key(table: Table) -> dict[Key, dict[str, Any]]:
    rows = [r for r in table if r["kind"] == "measurement"]
    found = {(r["subject"], r["metric"], r["variant"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def skips(table: Table) -> dict[Key, str]:
    return {
        (r["subject"], r["metric"], r["variant"]): r["reason"]
        for r in table
        if r["kind"] == "skip"
    }


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
    return model.requires_grad_(False)


def perceptron() -> nn.Sequential:
    return randomised(
        nn.Sequential(
            *(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))
        )
    )


def squares(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


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


def test_a_transformer_layer_is_measured_through_its_attention() -> None:
    torch_layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    net, x = randomised(torch_layer), randn(6, 5, 8, seed=6)
    for norm in (net.norm1, net.norm2):
        nn.init.ones_(norm.weight)
    v = randn(5, 8, seed=7)
    table = measure(net, x, cotangents=v)
    found = by_key(table)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, gave: Any, took: Any) -> None:
            seen[name] = gave[0]

        return hook

    net.eval()
    handles = [
        getattr(net, name).register_full_backward_hook(keep(name))
        for name in ("linear1", "linear2")
    ]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        moving = x.clone().requires_grad_()
        (net(moving) * v / v.norm()).sum().backward()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        for handle in handles:
            handle.remove()
    for name in ("linear1", "linear2"):
        row = found[f"{name}.weight", "gradient_gain", None]
        assert row["value"] == pytest.approx(
            float(squares(seen[name]).mean()), rel=1e-9
        )
        gain = found[f"{name}.weight", "jacobian_gain", None]
        assert gain["value"] > 0
    with torch.no_grad():
        y = net.norm1(x + net.self_attn(x, x, x, need_weights=False)[0])
        h = net.linear1(y)
    for site, value in (("pre", h), ("post", h.relu())):
        plain = float((squares(value) / squares(x)).mean())
        row = found["linear1.weight", "signal_gain", site]
        assert row["value"] == pytest.approx(plain, rel=1e-9)
    assert ("self_attn.out_proj.weight", "signal_gain", "pre") in found
    told = skips(table)
    key = ("self_attn.out_proj.weight", "jacobian_gain", None)
    assert "the module is not called" in told[key]
    # Padding carries no norm: it is left out, not zero by accident.
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 3:] = True
    batch = {"src": x, "src_key_padding_mask": mask}
    padded = by_key(measure(net, batch, quantities=["signal"]))
    with torch.no_grad():
        y = net.norm1(
            x + net.self_attn(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        )
    plain = squares(net.linear1(y)[:, :3]) / squares(x[:, :3])
    row = padded["linear1.weight", "signal_gain", "pre"]
    assert row["value"] == pytest.approx(float(plain.mean()), rel=1e-9)


def test_what_cannot_be_read_is_a_row_with_its_reason() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 6)
            self.memory = nn.LSTM(6, 5, batch_first=True)
            self.shared = nn.Linear(5, 5)
            self.idle = nn.Linear(2, 2)

        def forward(self, ids: Tensor) -> Tensor:
            h, _ = self.memory(self.table(ids))
            return self.shared(torch.relu(self.shared(h)))

    ids = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(1))
    with pytest.warns(match="never ran"):
        table = measure(randomised(Words()), ids)
    told = skips(table)
    assert "relative to the outputs of table" in told["network", "signal_gain", "input"]
    assert "ran 2 times" in told["shared.weight", "signal_gain", None]
    assert "never ran" in told["idle.weight", "signal_gain", None]
    assert "Embedding" in told["table.weight", "gradient_gain", None]
    assert "no floating-point" in told["network", "jacobian_gain", None]
    row = by_key(table)["table.weight", "signal_gain", "pre"]
    assert row["value"] == pytest.approx(1.0)


def test_the_model_and_the_random_state_are_left_bit_for_bit() -> None:
    net = nn.Sequential(
        *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True)),
        *(nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))),
    ).train()
    x = randn(12, 6).float()
    net(x).sum().backward()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad for p in net.parameters()]
    kept = [None if g is None else g.clone() for g in gradients]
    versions = [t._version for t in (*net.parameters(), *net.buffers())]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    state = torch.get_rng_state()
    for mode in ("eval", "train"):
        kwargs: dict[str, Any] = {"mode": mode}
        if mode == "train":
            kwargs["quantities"] = ["signal", "jacobian"]
        tables = [measure(net, x, **kwargs) for _ in range(2)]
        assert tables[0].frame.equals(tables[1].frame)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    now = [p.grad for p in net.parameters()]
    assert all(a is b for a, b in zip(now, gradients, strict=True))
    for a, b in zip(now, kept, strict=True):
        assert a is b is None or (a is not None and torch.equal(a, b))
    assert [t._version for t in (*net.parameters(), *net.buffers())] == versions
    assert all(m.training for m in net.modules())
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()
    ]


def test_arguments_out_of_range_are_refused() -> None:
    from spectrank.random_nets import RandomMLP

    net, x = perceptron(), randn(4, 6)
    law = RandomMLP([6, 4], spectrum="gaussian")
    with pytest.raises(ArgumentTypeError, match="Module or a RandomMLP, got dict"):
        measure({}, x)  # type: ignore[arg-type]
    with pytest.raises(DomainError, match="belongs to a RandomMLP"):
        measure(net, x, num_networks=4)
    with pytest.raises(DomainError, match="got speed"):
        measure(net, x, quantities=["speed"])  # type: ignore[list-item]
    with pytest.raises(DomainError, match="the loader gave none"):
        measure(net, [])
    with pytest.raises(ShapeError, match=r"output, \(4,\) here"):
        measure(net, x, cotangents=torch.ones(3))
    with pytest.raises(DomainError, match="finite and not zero"):
        measure(net, x, cotangents=torch.zeros(4))
    with pytest.raises(DomainError, match="pass how many"):
        measure(law, x)
    with pytest.raises(DomainError, match="at least two networks"):
        measure(law, x, num_networks=1)
    for options in ({"num_directions": 2}, {"cotangents": torch.ones(4)}):
        with pytest.raises(DomainError, match="an option of a given module"):
            measure(law, x, num_networks=3, **options)
    with pytest.raises(ShapeError, match="have 6 entries"):
        measure(law, randn(5), num_networks=3)
    with pytest.raises(DomainError, match="not zero"):
        measure(law, torch.zeros(6), num_networks=3)
    with pytest.raises(ArgumentTypeError, match="iterable of batches"):
        measure(net, 3)


def test_an_output_that_is_not_a_number_is_said_to_be_so() -> None:
    net, x = perceptron(), randn(6, 6)
    x[3, 2] = torch.nan
    found = by_key(measure(net, x))
    for metric in ("signal_gain", "log_signal_mean", "signal_second_moment"):
        row = found["2.weight", metric, "pre"]
        assert row["status"] == "nonfinite"
        assert row["value"] != row["value"]
        assert row["reason"]
    assert found["2.weight", "cosine", "pre"]["status"] == "nonfinite"


def test_samples_of_zeros_are_left_out_and_a_row_says_so() -> None:
    net, x = perceptron(), randn(6, 6)
    plain = by_key(measure(net, x[1:], quantities=["signal"]))
    x[0] = 0.0
    table = measure(net, x, quantities=["signal"])
    for metric in ("signal_gain", "log_signal_variance", "signal_second_moment"):
        row = by_key(table)["2.weight", metric, "pre"]
        assert row["value"] == pytest.approx(plain["2.weight", metric, "pre"]["value"])
        assert row["num_samples"] == 5
    assert "left out" in skips(table)["network", "signal_gain", "input"]


def test_a_call_of_ones_own_is_measured() -> None:
    net, x = perceptron(), randn(6, 6)
    own = measure(
        net,
        [{"pixels": x}],
        unpack=lambda raw: ModelCall(args=(raw["pixels"],)),
        quantities=["signal"],
    )
    plain = measure(net, x, quantities=["signal"])
    assert own.frame.equals(plain.frame)
