"""Kernels of finite random nets, by brute force, around the infinite-width kernel.

Parameters are drawn, never read from a module: W ~ N(0, sigma_w^2 / n), b ~
N(0, sigma_b^2). The Jacobian is that of reverse-mode differentiation, entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.errors import SpectrankWarning
from spectrank.ntk.infinite import infinite_width
from spectrank.random_nets import RandomMLP

_W, _B = 1.6, 0.3
_SEEDS = (0, 1, 2)


def _draws(
    net: nn.Module, num: int, generator: torch.Generator, variances: tuple[float, float]
) -> dict[str, Tensor]:
    """Parameters of ``num`` nets; norms are left at one and zero."""
    found = {}
    for name, p in net.named_parameters():
        kind = name.rpartition(".")[2]
        owner = net.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, nn.LayerNorm):
            found[name] = p.detach().double().expand(num, *p.shape).clone()
            continue
        inputs = p[0].numel() if kind == "weight" else 1
        size = math.sqrt(variances[kind == "bias"] / inputs)
        shape = (num, *p.shape)
        found[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[name] *= size
    return found


def _kernels(net: nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    """(num, n, n) kernels of the first output of each net."""

    def output(own: dict[str, Tensor], point: Tensor) -> Tensor:
        return torch.func.functional_call(net, own, (point[None],))[0, 0]

    jacobian = torch.func.vmap(
        torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))
    )(params, x.expand(len(next(iter(params.values()))), *x.shape))
    flat = torch.cat([g.flatten(2) for g in jacobian.values()], 2)
    return flat @ flat.mT


class Skip(nn.Module):
    """phi(x) + f(x), the skip after an activation."""

    def __init__(self, phi: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.phi, self.inner = phi, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        h = self.phi(x)
        return h + self.inner(h)


class Written(nn.Module):
    """Skips of the input, of two maps, scalings and a strided circular convolution."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, n, 3, padding=1)
        self.one = nn.Conv1d(n, n, 1)
        self.two = nn.Conv1d(n, n, 3, padding=1, padding_mode="circular", stride=2)
        self.norm = nn.LayerNorm(n)
        self.end = nn.Linear(n, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = 0.5 * functional.relu(h) - 2.0 * torch.sigmoid(self.one(functional.gelu(h)))
        h = self.two(1.0 + h)
        h = self.norm(h.permute(0, 2, 1))
        h = torch.tanh(h / 2.0 - 0.3).mean(1)
        return self.end(h)


def _dense(n: int, phi: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, n), phi, nn.Linear(n, n), phi, nn.Linear(n, 1))


_NETS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "tanh": (lambda n: _dense(n, nn.Tanh()), (3,)),
    "post_skip": (
        lambda n: nn.Sequential(
            nn.Linear(3, n),
            Skip(functional.relu, nn.Linear(n, n), nn.SiLU(), nn.Linear(n, n)),
            nn.Linear(n, n),
            nn.Softplus(),
            nn.Linear(n, 1),
        ),
        (3,),
    ),
    "written": (Written, (2, 6)),
}


def _points(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(3, *shape, generator=generator, dtype=torch.float64)


def _limit(net: nn.Module, x: Tensor, **options: Any) -> Tensor:
    kernel = infinite_width(
        net, x.float(), weight_variance=_W, bias_variance=_B, **options
    )
    return kernel(x)[1]


@pytest.mark.parametrize("name", sorted(_NETS))
def test_finite_kernels_approach_the_limit_like_the_root_of_the_width(
    name: str,
) -> None:
    make, shape = _NETS[name]
    x, widths, num = _points(shape), (16, 48, 144), 48
    nets = [make(n) for n in widths]
    limits = [_limit(net, x) for net in nets]
    slopes = []
    for seed in _SEEDS:
        generator = torch.Generator().manual_seed(seed)
        errors = []
        for net, limit in zip(nets, limits, strict=True):
            found = _kernels(net, _draws(net, num, generator, (_W, _B)), x)
            relative = (found - limit) / limit.norm()
            errors.append(math.sqrt(float(relative.square().mean())))
        slopes.append(_slope(widths, errors))
    mean, error = _mean_and_error(slopes)
    # The terms beyond the first are as large as a tenth of the slope at these widths.
    assert abs(mean + 0.5) <= 4.0 * error + 0.05
    assert error < 0.1


def _slope(widths: tuple[int, ...], errors: list[float]) -> float:
    t = torch.tensor(widths, dtype=torch.float64).log()
    u = torch.tensor(errors, dtype=torch.float64).log()
    t = t - t.mean()
    return float((t @ u) / (t @ t))


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    spread = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(spread / len(values))


_EXACT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "dense": (_dense(5, nn.LeakyReLU(0.3)), (3,)),
    "conv": (
        nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), padding=(1, 0), stride=(2, 1)),
            nn.ReLU(),
            nn.Conv2d(4, 3, 2, padding="same", dilation=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * 3 * 4, 1),
        ),
        (2, 5, 5),
    ),
}


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("name", sorted(_EXACT))
def test_mean_of_relu_kernels_of_one_point_is_the_limit_at_any_width(
    name: str, seed: int
) -> None:
    # Signs are coins independent of all norms, so the mean at width five is the limit:
    # the width in the standard parametrisation is the module's own, exactly.
    net, shape = _EXACT[name]
    x = _points(shape)
    generator = torch.Generator().manual_seed(seed)
    params = _draws(net, 3000, generator, (_W, 0.0))
    found = _kernels(net, params, x).diagonal(dim1=1, dim2=2)
    limit = infinite_width(net, x.float(), weight_variance=_W, bias_variance=0.0)
    mean, error = found.mean(0), found.std(0) / math.sqrt(len(found))
    assert bool(((mean - limit(x)[1].diagonal()).abs() <= 4.0 * error).all())


@pytest.mark.parametrize("seed", _SEEDS)
def test_covariance_of_outputs_is_the_nngp_kernel(seed: int) -> None:
    # One hidden layer: the covariance is that of the limit at any width.
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    x = _points((3,))
    generator = torch.Generator().manual_seed(seed)
    params = _draws(net, 40000, generator, (_W, _B))
    hidden = torch.tanh(x @ params["0.weight"].mT + params["0.bias"][:, None])
    out = (hidden @ params["2.weight"].mT + params["2.bias"][:, None])[..., 0]
    products = out[:, :, None] * out[:, None]
    mean, error = products.mean(0), products.std(0) / math.sqrt(len(out))
    limit = infinite_width(net, weight_variance=_W, bias_variance=_B)(x)[0]
    assert bool(((mean - limit).abs() <= 4.0 * error).all())


def _scatter(net: RandomMLP, x: Tensor, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Kernels of sampled nets, and the limit."""
    generator = torch.Generator().manual_seed(seed)
    weights = net.sample_weights(generator, num=num)
    model = net.sample(generator)
    found = _kernels(model, dict(zip(net.parameter_names, weights, strict=True)), x)
    return found, infinite_width(net)(x)[1]


def test_orthogonal_nets_approach_the_limit_and_nets_of_bounded_rank_do_not() -> None:
    # S1 5.4: sigma_w^2 = ||W||_F^2 / n_l, provided that rho grows.
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    errors: dict[str, list[float]] = {"orthogonal": [], "flat": []}
    for n in (32, 128):
        for spectrum, rank in (("orthogonal", None), ("flat", 4)):
            net = RandomMLP(
                [8, n, n, 1],
                stable_rank=None if rank is None else (4, 4, 1),
                spectrum=spectrum,
            )
            with _silent(spectrum):
                found, limit = _scatter(net, x, 200, 5)
            errors[spectrum].append(float(((found - limit) / limit).square().mean()))
    # The variance falls like 1/n: by four; 200 draws know a ratio to a tenth or two.
    assert errors["orthogonal"][1] < 0.4 * errors["orthogonal"][0]
    assert errors["flat"][1] > 0.6 * errors["flat"][0]


def _silent(spectrum: str) -> AbstractContextManager[object]:
    if spectrum == "orthogonal":
        return nullcontext()
    return pytest.warns(SpectrankWarning, match="stays random however wide")
