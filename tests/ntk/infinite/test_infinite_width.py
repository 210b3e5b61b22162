"""``infinite_width``: conventions, invariances, blocks, and what the user keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectrank import RandomMLP
from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.ntk.infinite import Kernel, infinite_width


def _points(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 2)
    )


def _pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


_BOTH = [(_mlp, (3,)), (_pooled, (1, 6, 5))]


def _read(make: Any, shape: tuple[int, ...], **options: Any) -> Kernel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return infinite_width(make(), torch.zeros(2, *shape), **options)


def test_two_layers_of_relu_by_hand() -> None:
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 1))
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    options = {"weight_variance": 2.0, "bias_variance": 0.5}
    # q = 2 |x|^2 / 2 + 1/2, k = 1/2.
    q, k = (1.5, 4.5), 0.5
    norm = math.sqrt(q[0] * q[1])
    theta = math.acos(k / norm)
    relu = norm * (math.sin(theta) + (math.pi - theta) * math.cos(theta))
    relu /= 2 * math.pi
    slope = (math.pi - theta) / (2 * math.pi)
    nngp, ntk = infinite_width(net, **options)(x)
    assert nngp[0, 1].item() == pytest.approx(2 * relu + 0.5, rel=1e-14)
    # standard: Theta_1 = x.y + 1 = 1; 64 hidden numbers, one bias.
    expected = 64 * relu + 1 + 2 * slope * 1.0
    assert ntk[0, 1].item() == pytest.approx(expected, rel=1e-14)
    expected_diagonal = 64 * 0.75 + 1 + 2 * 0.5 * (1.0 + 1)
    assert ntk[0, 0].item() == pytest.approx(expected_diagonal, rel=1e-14)
    nngp_ntk, ntk = infinite_width(net, parametrisation="ntk", **options)(x)
    assert torch.equal(nngp, nngp_ntk)
    expected = 2 * relu + 0.5 + 2 * slope * k
    assert ntk[0, 1].item() == pytest.approx(expected, rel=1e-14)


def test_kernel_of_a_law_has_the_golden_mean_and_its_scatter() -> None:
    net = RandomMLP([10, 16, 16, 16, 1], stable_rank=4, spectrum="flat")
    with pytest.warns(UserWarning, match="relative variance of 1.1"):
        kernel = infinite_width(net)
    assert kernel(torch.eye(10)[:1])[1].item() == pytest.approx(5.8, rel=1e-14)
    table = kernel.table()
    # E K = 5.8 and E K^2 = 71.06395061728404 (theory of the moments, section 5.2).
    scatter = table.value("network", "kernel_relative_variance")
    assert scatter == pytest.approx(71.06395061728404 / 5.8**2 - 1, rel=1e-12)
    assert table.value("2.weight", "weight_variance") == pytest.approx(2.0, rel=1e-14)
    assert table.value("2.weight", "participation_ratio") == pytest.approx(4.0)


def test_spectral_norm_held_makes_the_variance_that_of_the_stable_rank() -> None:
    # sigma_w^2 = sigma^2 sr / m, so every layer but the first doubles with its rank.
    values = []
    for rank in (64, 128):
        net = RandomMLP(
            [256, 256, 256, 1],
            stable_rank=(rank, rank, 1),
            spectrum="flat",
            norm="spectral",
            sigma=1.5,
        )
        table = infinite_width(net).table()
        values.append(table.value("2.weight", "weight_variance"))
    assert values == pytest.approx([1.5**2 * 64 / 256, 1.5**2 * 128 / 256], rel=1e-12)


def test_scatter_of_a_smooth_law_is_a_skip_row() -> None:
    net = RandomMLP([4, 8, 1], spectrum="orthogonal", activation="tanh")
    table = infinite_width(net).table()
    rows = table.where(subject="network").frame.to_dicts()
    assert [(r["metric"], r["kind"], r["status"]) for r in rows] == [
        ("kernel_relative_variance", "skip", "skipped")
    ]


def test_variances_are_those_of_the_module_unless_stated() -> None:
    net = _mlp()
    kernel = infinite_width(net, weight_variance={"2.*": 2.5}, bias_variance=0.25)
    table = kernel.table()
    W = net[0].weight.detach().double()
    expected = float((W**2).sum()) / 16
    assert table.value("0", "weight_variance") == pytest.approx(expected, rel=1e-14)
    assert table.value("2", "weight_variance") == 2.5
    assert table.value("4", "bias_variance") == 0.25
    read = infinite_width(net).table().value("0", "bias_variance")
    bias = net[0].bias.detach().double()
    assert read == pytest.approx(float((bias**2).mean()), rel=1e-14)


@pytest.mark.parametrize(("make", "shape"), _BOTH)
def test_kernels_are_symmetric_semidefinite_and_equivariant(
    make: Any, shape: tuple[int, ...]
) -> None:
    kernel, x = _read(make, shape), _points(5, *shape)
    order = [3, 0, 4, 1, 2]
    for which, found in enumerate(kernel(x)):
        assert torch.equal(found, found.T)
        smallest = float(torch.linalg.eigvalsh(found)[0])
        assert smallest > -1e-13 * float(found.diagonal().max())
        moved = kernel(x[order])[which]
        torch.testing.assert_close(moved, found[order][:, order], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("make", "shape"), _BOTH)
def test_blocks_and_a_second_set_change_nothing(
    make: Any, shape: tuple[int, ...]
) -> None:
    kernel, x = _read(make, shape), _points(5, *shape)
    whole = kernel(x)
    for other in (kernel(x, block=2), kernel(x, x.clone()), kernel(x, x, block=3)):
        for found, expected in zip(other, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    for found, expected in zip(kernel(x[:2], x[2:]), whole, strict=True):
        torch.testing.assert_close(found, expected[:2, 2:], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("parametrisation", ["standard", "ntk"])
def test_kernel_is_additive_over_disjoint_parameters(parametrisation: Any) -> None:
    x = _points(4, 3)
    parts = [
        _read(_mlp, (3,), parametrisation=parametrisation, params=pattern)(x)[1]
        for pattern in ("*", "*.weight", "*.bias", "0.*", ["2.*", "4.*"])
    ]
    torch.testing.assert_close(parts[1] + parts[2], parts[0], rtol=1e-13, atol=0.0)
    torch.testing.assert_close(parts[3] + parts[4], parts[0], rtol=1e-13, atol=0.0)


def test_frozen_parameters_leave_the_kernel_but_not_the_signal() -> None:
    net, x = _mlp(), _points(4, 3)
    whole = infinite_width(net)(x)
    net[2].requires_grad_(False)
    nngp, ntk = infinite_width(net)(x)
    assert torch.equal(nngp, whole[0])
    chosen = infinite_width(net, params=["0.*", "4.*"])(x)[1]
    assert torch.equal(ntk, chosen)
    # Its bias alone adds Theta = 1 times what the last layer passes on.
    assert float((whole[1] - ntk).diagonal().min()) > 0.0


def test_affine_parameters_of_a_layer_norm_by_hand() -> None:
    # z normed to cosines c; gamma adds the kernel of the norm, beta adds one.
    net = nn.Sequential(nn.Linear(3, 32), nn.LayerNorm(32, eps=0.0), nn.Linear(32, 1))
    x = _points(4, 3)
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.T
    options = {"weight_variance": 1.7, "bias_variance": 0.0}
    nngp, ntk = infinite_width(net, **options)(x)
    torch.testing.assert_close(nngp, 1.7 * cosine, rtol=1e-13, atol=1e-15)
    q = 1.7 * x.square().mean(1)
    first = (x @ x.T + 1.0) / (q[:, None] * q).sqrt()
    expected = 32 * cosine + 1.0 + 1.7 * (first + cosine + 1.0)
    torch.testing.assert_close(ntk, expected, rtol=1e-12, atol=1e-13)
    net[1].weight.requires_grad_(False)
    ntk = infinite_width(net, **options)(x)[1]
    expected = 32 * cosine + 1.0 + 1.7 * (first + 1.0)
    torch.testing.assert_close(ntk, expected, rtol=1e-12, atol=1e-13)


def test_inputs_before_the_first_layer_are_taken_as_numbers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.end = nn.Linear(6, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(2.0 * x - 0.5) + x
            return self.end(x[:, :, 1:].permute(0, 2, 1).reshape(len(x), -1))

    x = _points(3, 2, 4)
    kernel = infinite_width(Net(), x, weight_variance=3.0)
    y = (torch.relu(2.0 * x - 0.5) + x)[:, :, 1:].reshape(3, -1)
    nngp, ntk = kernel(x)
    torch.testing.assert_close(nngp, 3.0 * y @ y.T / 6, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(ntk, y @ y.T, rtol=1e-13, atol=1e-15)


def test_scaled_and_shifted_outputs_scale_both_kernels() -> None:
    class Net(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return 3.0 - self.net(x) / 2.0

    net, x = _mlp(), _points(3, 3)
    scaled = infinite_width(Net(net), x.float())(x)
    for found, plain in zip(scaled, infinite_width(net)(x), strict=True):
        torch.testing.assert_close(found, plain / 4.0, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize(
    "phi", [torch.relu, torch.tanh, torch.erf, nn.functional.gelu, torch.abs]
)
def test_scalings_around_a_map_are_variances_of_the_layers_around_it(phi: Any) -> None:
    class Net(nn.Module):
        def __init__(self, before: float, after: float) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 1)
            self.before, self.after = before, after

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.after * phi(self.before * self.a(x)))

    x = _points(3, 3)
    scaled = infinite_width(
        Net(0.5, -3.0),
        x.float(),
        parametrisation="ntk",
        weight_variance=2.0,
        bias_variance={"a.*": 0.4, "b.*": 0.1},
    )
    plain = infinite_width(
        Net(1.0, 1.0),
        x.float(),
        parametrisation="ntk",
        weight_variance={"a.*": 0.5, "b.*": 18.0},
        bias_variance=0.1,
    )
    for found, expected in zip(scaled(x), plain(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)


class _Sum(nn.Module):
    """Maps of two layers, neither of mean zero, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = 2.0 * torch.relu(self.a(x)) + torch.sigmoid(self.b(x))
        return self.c(0.5 * h + 1.0)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(_Sum, (3,)), (lambda: nn.Sequential(*_pooled()[:6]), (1, 6, 5))],
)
def test_variances_that_norms_divide_by_are_the_diagonal_of_the_kernel(
    make: Any, shape: tuple[int, ...]
) -> None:
    net = nn.Sequential(make(), nn.LayerNorm(8, eps=0.0), nn.Linear(8, 1))
    x = _points(3, *shape)
    kernel = infinite_width(net, x.float(), weight_variance=1.5, bias_variance=0.0)
    for found in (kernel(x)[0], kernel(x, x.clone())[0]):
        expected = torch.full((3,), 1.5, dtype=torch.float64)
        torch.testing.assert_close(found.diagonal(), expected, rtol=1e-13, atol=0.0)


def test_second_moment_of_a_sum_of_maps_by_hand() -> None:
    x = _points(2, 3)
    kernel = infinite_width(_Sum(), x.float(), weight_variance=1.0, bias_variance=0.0)
    z = torch.randn(
        400_000, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    u = (z / math.sqrt(3.0)) @ x.T
    h = torch.relu(u[:, 0]) + 0.5 * torch.sigmoid(u[:, 1]) + 1.0
    products = h[:, 0] * h[:, 1]
    error = float(products.std()) / math.sqrt(len(products))
    assert abs(float(products.mean() - kernel(x)[0][0, 1])) <= 4.0 * error


@pytest.mark.parametrize("pooled", [True, False])
def test_zeros_put_beside_an_image_are_zeros_of_the_convolution(pooled: bool) -> None:
    def net(*first: nn.Module) -> nn.Sequential:
        end = (nn.AdaptiveAvgPool2d(1),) if pooled else ()
        size = 4 if pooled else 4 * 20
        return nn.Sequential(
            nn.Conv2d(1, 4, 1),
            *first,
            nn.ReLU(),
            *end,
            nn.Flatten(),
            nn.Linear(size, 1),
        )

    x = _points(2, 1, 5, 4)
    own = net(nn.Conv2d(4, 4, 3, padding=1))
    beside = net(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3))
    options = {"weight_variance": 1.5, "bias_variance": 0.2}
    pair = [infinite_width(n, x.float(), **options)(x) for n in (own, beside)]
    for found, expected in zip(*pair, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0.0)


def test_only_what_leads_to_a_pool_keeps_pairs_of_positions() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten()
    )
    kernel = infinite_width(
        nn.Sequential(*net, nn.Linear(4, 1)), torch.zeros(1, 1, 6, 6)
    )
    kinds = {n.id: n.op for n in kernel.nodes}
    assert sorted(kinds[i] for i in kernel.pairs) == ["conv2d", "input"]


def test_a_sequential_needs_no_input_and_reads_the_same() -> None:
    net, x = _pooled(), _points(2, 1, 6, 5)
    for found, expected in zip(
        infinite_width(net)(x), infinite_width(net, x.float())(x), strict=True
    ):
        assert torch.equal(found, expected)


def test_the_model_and_the_generator_are_left_as_they_were() -> None:
    net = _mlp().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.random.get_rng_state()
    infinite_width(net, torch.zeros(1, 3))(_points(2, 3).float())
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_inputs_of_any_size_scale_the_kernels_of_a_homogeneous_net(
    size: float,
) -> None:
    net = nn.Sequential(
        nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)
    )
    kernel, x = infinite_width(net), _points(3, 3)
    for found, once in zip(kernel(x * size), kernel(x), strict=True):
        torch.testing.assert_close(found / size**2, once, rtol=1e-12, atol=0.0)
    with pytest.raises(DomainError, match="range of float64, got entries"):
        kernel(x * 1e200)


def test_wrong_inputs_are_refused_before_anything_is_computed() -> None:
    kernel = infinite_width(_mlp(), torch.zeros(1, 3))
    with pytest.raises(ShapeError, match=r"shape \(samples, 3\), got \(2, 4\)"):
        kernel(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="x and y must agree"):
        infinite_width(_mlp())(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ArgumentTypeError, match=r"got torch\.int64"):
        kernel(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(DomainError, match=r"must be finite, got 1 entries"):
        kernel(torch.tensor([[1.0, math.nan, 0.0]]))
    with pytest.raises(DomainError, match=r"block must be at least 1, got 0"):
        kernel(torch.zeros(2, 3), block=0)
