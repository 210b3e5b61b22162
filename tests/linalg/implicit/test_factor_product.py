"""Products of thin factors against the product formed in exact or double precision."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import spectrum
from spectrank.linalg.implicit import FactorProduct


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(
    ("m", "r", "n"), [(30, 4, 20), (5, 9, 7), (1, 1, 6), (8, 8, 8)]
)
@pytest.mark.parametrize("scale", [1.0, 0.25, -3.0])
def test_values_are_those_of_the_product(m: int, r: int, n: int, scale: float) -> None:
    left, right = drawn(m, r), drawn(r, n, seed=1)
    op = FactorProduct(left, right, scale)
    whole = (scale * left) @ right
    assert torch.allclose(op.dense(), whole, rtol=1e-14, atol=1e-14)
    truth = torch.linalg.svdvals(whole)
    s = spectrum(op)
    assert (s.route, s.shape) == ("qr-core", (m, n))
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert s.schatten4 is not None
    assert ((s.sigma - truth).abs() <= s.sigma_error + 1e-14 * truth[0]).all()
    assert s.sigma_error[0] <= 1e-11 * truth[0]
    assert s.frobenius.value == pytest.approx(float(whole.norm()), rel=1e-12)
    fourth = float(torch.linalg.vector_norm(truth, 4))
    assert s.schatten4.value == pytest.approx(fourth, rel=1e-12)
    # Beyond the rank of the factors the values are zero, and known to be.
    assert s.sigma[r:].eq(0).all()
    assert s.sigma_error[r:].eq(0).all()
    assert s.num_resolved == min(m, n)
    assert s.resolves_small_end


def test_a_product_is_measured_without_its_entries() -> None:
    # 10^12 entries would be 8 TB.
    left = torch.zeros(1_000_000, 2)
    left[0, 0], left[1, 1] = 3.0, 4.0
    s = spectrum(FactorProduct(left, left.T.clone()))
    assert s.shape == (1_000_000, 1_000_000)
    assert s.sigma is not None
    assert s.sigma[:2].tolist() == pytest.approx([16.0, 9.0], rel=1e-14)
    assert s.frobenius.value == pytest.approx(math.hypot(16.0, 9.0), rel=1e-14)


def test_a_product_far_smaller_than_its_factors_has_its_error() -> None:
    # L R = [[1, 1e8], [0, 0]] [[1e8, 0], [-1 + 1e-7, 0]]: 1e8 - 1e8 + 10 = 10, where
    # a product in float64 keeps 8 digits of it.
    left = torch.tensor([[1.0, 1e8], [0.0, 0.0]]).double()
    right = torch.tensor([[1e8, 0.0], [-1.0 + 1e-7, 0.0]]).double()
    exact = Fraction(1) * Fraction(float(right[0, 0])) + Fraction(10**8) * Fraction(
        float(right[1, 0])
    )
    s = spectrum(FactorProduct(left, right))
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert abs(float(s.sigma[0]) - float(exact)) <= float(s.sigma_error[0])
    assert float(s.sigma_error[0]) > 1e-14 * float(exact)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    first=st.sampled_from([-1000, -300, 0, 300, 1000]),
    second=st.sampled_from([-1000, -300, 0, 300, 1000]),
    scale=st.sampled_from([2.0**-900, 0.7, 1.0, 2.0**900]),
)
def test_factors_of_any_scale_give_numbers_or_a_status(
    first: int, second: int, scale: float
) -> None:
    left = drawn(6, 2) * 2.0**first
    right = drawn(2, 5, seed=1) * 2.0**second
    plain = torch.linalg.svdvals(drawn(6, 2) @ drawn(2, 5, seed=1))
    power = math.log2(scale) + first + second
    s = spectrum(FactorProduct(left, right, scale))
    top = math.log2(float(plain[0])) + power
    if top > 1024:
        assert s.status == "nonfinite"
        assert s.reason is not None
        assert "leave the range of float64" in s.reason
    elif top > -1000:
        assert s.status == "ok"
        assert math.log2(s.sigma_max.value) == pytest.approx(top, abs=1e-9)
    else:
        assert s.sigma_max.upper <= 2.0**-990


def test_factors_that_cancel_exactly_make_a_zero_matrix() -> None:
    left = torch.tensor([[1.0, 1.0]])
    right = torch.tensor([[1.0], [-1.0]])
    s = spectrum(FactorProduct(left, right))
    # Rounding of the two QR may leave a trace, which then is within its error.
    assert s.status == "degenerate" or s.sigma_max.lower == 0.0


@pytest.mark.parametrize(
    ("left", "right", "scale", "status"),
    [
        (torch.zeros(4, 2), torch.ones(2, 3), 1.0, "degenerate"),
        (torch.ones(4, 2), torch.ones(2, 3), 0.0, "degenerate"),
        (torch.ones(4, 2), torch.full((2, 3), math.nan), 1.0, "nonfinite"),
        (torch.ones(4, 2), torch.ones(2, 3), math.inf, "nonfinite"),
        (torch.ones(0, 2), torch.ones(2, 3), 1.0, "degenerate"),
        (torch.ones(4, 0), torch.ones(0, 3), 1.0, "degenerate"),
    ],
)
def test_values_that_make_no_spectrum_are_a_status(
    left: Tensor, right: Tensor, scale: float, status: str
) -> None:
    s = spectrum(FactorProduct(left, right, scale))
    assert s.status == status
    assert s.reason


def test_factors_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(m, r\) and \(r, n\).*transpose"):
        FactorProduct(torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(DomainError, match="scale is a number"):
        FactorProduct(torch.ones(4, 2), torch.ones(2, 3), "2")  # type: ignore[arg-type]
