"""Gaussian means of elementwise maps against integrals of their definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.ntk.infinite import infinite_width
from spectrank.ntk.infinite.duals import Dual, Erf, Gelu, Leaky
from spectrank.ntk.infinite.series import Smooth

_CASES = ((0.7, 1.9, 0.4), (2.5, 0.3, -0.6), (1.0, 1.0, 0.0), (1.3, 1.3, 0.999))
_CLOSED: dict[str, tuple[Dual, Callable[[Tensor], Tensor]]] = {
    "erf": (Erf(), torch.erf),
    "gelu": (Gelu(), functional.gelu),
}
_SERIES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "shifted": lambda u: torch.tanh(2.0 * u - 0.7),
}


def _numbers(*values: float) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def _quadrature(
    phi: Callable[[Tensor], Tensor], q_x: float, q_y: float, cosine: float
) -> float:
    """E phi(u) phi(v) by the trapezoidal rule over the plane."""
    z = torch.linspace(-12.0, 12.0, 1201, dtype=torch.float64)
    weights = torch.exp(-0.5 * z**2) * (z[1] - z[0]) / math.sqrt(2.0 * math.pi)
    u = phi(math.sqrt(q_x) * z)
    rest = math.sqrt((1.0 - cosine) * (1.0 + cosine))
    v = phi(math.sqrt(q_y) * (cosine * z[:, None] + rest * z))
    return float((weights * u) @ v @ weights)


def _slope_of(phi: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(u: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(phi))(u.reshape(-1)).reshape(u.shape)

    return slope


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("name", [*_CLOSED, *_SERIES])
def test_dual_and_slope_are_integrals_over_the_plane(
    name: str, case: tuple[float, float, float]
) -> None:
    q_x, q_y, cosine = case
    if name in _CLOSED:
        dual, phi = _CLOSED[name]
    else:
        phi = _SERIES[name]
        dual = Smooth(phi, name)
    k = cosine * math.sqrt(q_x * q_y)
    value, slope = dual.pair(*_numbers(k, q_x, q_y))
    # The trapezoidal rule of a smooth map is right to rounding.
    assert float(value) == pytest.approx(
        _quadrature(phi, q_x, q_y, cosine), rel=1e-12, abs=1e-13
    )
    assert float(slope) == pytest.approx(
        _quadrature(_slope_of(phi), q_x, q_y, cosine), rel=1e-12, abs=1e-13
    )
    (q,) = _numbers(q_x)
    assert float(dual.square(q)) == pytest.approx(
        _quadrature(phi, q_x, q_x, 1.0), rel=1e-12
    )
    constant = _quadrature(lambda u: phi(u) + 1.0, q_x, 1e-300, 0.0)
    at_zero = float(phi(torch.zeros(1, dtype=torch.float64))) + 1.0
    assert float(dual.mean(q)) + 1.0 == pytest.approx(constant / at_zero, rel=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.2, -1.0, 1.0])
@pytest.mark.parametrize("cosine", [0.3, -0.8, 1.0 - 1e-9, -1.0 + 1e-9, 1.0, -1.0])
def test_leaky_dual_is_the_arc_cosine_kernel_at_50_digits(
    slope: float, cosine: float
) -> None:
    q_x, q_y = 1.7, 0.6
    with mpmath.workdps(50):
        k = mpmath.mpf(cosine * math.sqrt(q_x * q_y))
        norm = mpmath.sqrt(mpmath.mpf(q_x) * mpmath.mpf(q_y))
        c = max(mpmath.mpf(-1), min(mpmath.mpf(1), k / norm))
        theta = mpmath.acos(c)
        if abs(cosine) == 1.0:
            theta = mpmath.mpf(0) if cosine > 0 else mpmath.pi
        first = norm * (mpmath.sin(theta) + (mpmath.pi - theta) * mpmath.cos(theta))
        zeroth = (mpmath.pi - theta) / (2 * mpmath.pi)
        relu = first / (2 * mpmath.pi)
        a = mpmath.mpf(slope)
        expected = float((1 - a) ** 2 * relu + a * k)
        expected_slope = float(a + (1 - a) ** 2 * zeroth)
    numbers = _numbers(cosine * math.sqrt(q_x * q_y), q_x, q_y)
    value, rate = Leaky(slope).pair(*numbers)
    # 1 - |c| = 1e-9 is known to 1e-7 of itself from a rounded k: theta to 1e-12.
    assert float(value) == pytest.approx(expected, rel=1e-13, abs=1e-15)
    assert float(rate) == pytest.approx(expected_slope, rel=1e-11, abs=1e-12)
    (q,) = _numbers(q_x)
    with mpmath.workdps(30):
        mean = (1 - a) * mpmath.sqrt(q_x) * mpmath.npdf(0)
    assert float(Leaky(slope).mean(q)) == pytest.approx(float(mean), rel=1e-14)
    assert float(Leaky(slope).square(q)) == pytest.approx(
        q_x * (1.0 + slope**2) / 2.0, rel=1e-15
    )


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e150])
def test_relu_is_homogeneous_over_all_scales(size: float) -> None:
    value, slope = Leaky(0.0).pair(*_numbers(0.3 * size, size, size))
    once, rate = Leaky(0.0).pair(*_numbers(0.3, 1.0, 1.0))
    assert float(value) / size == pytest.approx(float(once), rel=1e-13)
    assert float(slope) == pytest.approx(float(rate), rel=1e-13)


def test_a_point_and_its_copy_are_one_point_in_spite_of_rounding() -> None:
    # arccos, or a root of the rounded difference, would give a slope of 0.5 - 2e-9.
    q = torch.tensor(1.0 / 3.0, dtype=torch.float64)
    below = torch.nextafter(q, torch.zeros_like(q))
    assert float(Leaky(0.0).pair(below, q, q)[1]) == 0.5


def test_variance_of_zero_gives_the_map_at_zero() -> None:
    k = _numbers(0.0, 0.0, 2.0)
    # torch has relu'(0) = 0, leaky_relu'(0) = a and abs'(0) = 0; E phi' = (1 + a) / 2.
    for a, slope in ((0.0, 0.0), (0.2, 0.2 * 0.6), (-1.0, 0.0)):
        value, rate = Leaky(a).pair(*k)
        assert float(value) == 0.0
        assert float(rate) == pytest.approx(slope, rel=1e-15)
        zeros = _numbers(0.0, 0.0, 0.0)
        assert float(Leaky(a).pair(*zeros)[1]) == pytest.approx(max(a, 0.0) ** 2)
    value, _ = Smooth(torch.sigmoid, "sigmoid").pair(*k)
    # sigmoid(0) times E sigmoid(v), which is one half by symmetry.
    assert float(value) == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize("q", [1e-6, 0.1, 1.0, 9.0])
def test_the_series_of_erf_is_its_closed_form(q: float) -> None:
    k = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64) * q
    sides = torch.full_like(k, q)
    series = Smooth(torch.erf, "erf").pair(k, sides, sides)
    for got, expected in zip(series, Erf().pair(k, sides, sides), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13 * q)


def test_a_map_too_steep_for_the_series_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    kernel = infinite_width(net, weight_variance=1e3)
    with pytest.raises(DomainError, match="smaller weight_variance"):
        kernel(torch.tensor([[1.0, 1.0], [1.0, 1.1]]))
