"""Convolutions on a torus against the matrix written out entry by entry."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg import spectrum
from spectrank.linalg.implicit import CircularConvolution

CASES = [
    # kernel (out, in / groups, *taps), size, stride, dilation, groups
    ((3, 2, 3), (8,), (1,), (1,), 1),
    ((3, 2, 3), (8,), (2,), (1,), 1),
    ((2, 3, 5), (4,), (1,), (1,), 1),  # more taps than inputs: they wrap around
    ((2, 2, 3), (6,), (3,), (2,), 1),
    ((4, 2, 3, 3), (4, 6), (2, 1), (1, 2), 2),
    ((2, 3, 3, 2), (5, 4), (1, 1), (2, 1), 1),
    ((6, 1, 3, 3), (4, 4), (2, 2), (1, 1), 3),
    ((2, 2, 2, 2, 2), (2, 3, 4), (1, 1, 2), (1, 1, 1), 1),
]


def explicit(
    kernel: Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """y[o, p] = sum K[o, c, t] x[c, (s p + d t) mod N], one entry at a time."""
    out, per_group, *taps = kernel.shape
    outputs = [n // s for n, s in zip(size, stride, strict=True)]
    grid = list(itertools.product(*map(range, size)))
    place = {index: i for i, index in enumerate(grid)}
    rows = list(itertools.product(range(out), itertools.product(*map(range, outputs))))
    whole = torch.zeros(len(rows), per_group * groups * len(grid), dtype=torch.float64)
    for row, (o, p) in enumerate(rows):
        first = o // (out // groups) * per_group
        for c, t in itertools.product(
            range(per_group), itertools.product(*map(range, taps))
        ):
            q = tuple(
                (s * a + d * b) % n
                for s, a, d, b, n in zip(stride, p, dilation, t, size, strict=True)
            )
            whole[row, (first + c) * len(grid) + place[q]] += kernel[(o, c, *t)]
    return whole


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("shape", "size", "stride", "dilation", "groups"), CASES)
def test_singular_values_and_norms_are_those_of_the_matrix_written_out(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> None:
    kernel = drawn(shape)
    whole = explicit(kernel, size, stride, dilation, groups)
    op = CircularConvolution(kernel, size, stride, dilation, groups)
    assert op.shape == tuple(whole.shape)
    assert torch.equal(op.dense(), whole)
    truth = torch.linalg.svdvals(whole)
    s = spectrum(op, ["sigma", "schatten4"])
    assert s.route == "fft-blocks"
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert s.schatten4 is not None
    # The error is a promise, and no loose one. The oracle itself is good to 1e-14.
    assert ((s.sigma - truth).abs() <= s.sigma_error + 1e-14 * truth[0]).all()
    assert (s.sigma - truth).abs().max() <= 1e-7 * truth[0]
    assert float(s.sigma[0] - truth[0]) == pytest.approx(
        0.0, abs=1e-13 * float(truth[0])
    )
    for value, expected in (
        (s.frobenius, torch.linalg.vector_norm(truth)),
        (s.sigma_max, truth[0]),
        (s.schatten4, torch.linalg.vector_norm(truth, 4)),
    ):
        assert value.value == pytest.approx(float(expected), rel=1e-12)
        assert value.lower <= float(expected) * (1 + 1e-13)
        assert value.upper >= float(expected) * (1 - 1e-13)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_with_circular_padding_is_this_operator(stride: int) -> None:
    layer = nn.Conv2d(
        3, 4, 3, stride=stride, padding=1, padding_mode="circular", bias=False
    ).double()
    x = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer, x).reshape(-1, x.numel())
    s = spectrum(CircularConvolution(layer.weight, (4, 6), stride), ["sigma"])
    truth = torch.linalg.svdvals(jacobian)
    assert s.shape == tuple(jacobian.shape)
    assert s.sigma is not None
    assert torch.allclose(s.sigma, truth, rtol=1e-7, atol=1e-9)


def test_a_small_end_that_a_gram_matrix_cannot_see_is_found() -> None:
    # sum_t K_t vanishes at frequency 0 up to 1e-10: one value of 1e-10 among ones.
    kernel = torch.tensor([[[1.0, -1.0 + 1e-10]]], dtype=torch.float64)
    s = spectrum(CircularConvolution(kernel, 8), ["small_end"])
    assert s.sigma is not None
    assert s.sigma_error is not None
    w = 2.0 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    b = 1.0 - 1e-10
    truth = ((1.0 - b * w.cos()) ** 2 + (b * w.sin()) ** 2).sqrt()
    truth = truth.sort(descending=True).values
    truth[-1] = 1.0 - b
    assert torch.allclose(s.sigma, truth, rtol=1e-5)
    assert s.route == "fft-blocks-svd" or s.sigma_error[-1] <= 1e-4 * s.sigma[-1]


def test_taps_that_cancel_on_the_torus_make_a_zero_matrix() -> None:
    kernel = torch.tensor([[[1.0, 2.0, -1.0, -2.0]]])
    s = spectrum(CircularConvolution(kernel, 2))
    assert (s.status, s.sigma_max.value) == ("degenerate", 0.0)
    assert s.reason is not None
    assert "zero" in s.reason


@pytest.mark.parametrize("small", [3e-16, 1e-12])
def test_what_cancelling_taps_leave_is_known_to_the_rounding_of_the_taps(
    small: float,
) -> None:
    # All three taps meet, and (1 + small) - 1 keeps few digits of small.
    kernel = torch.tensor([[[1.0, small, -1.0]]], dtype=torch.float64)
    for size in (1, (1, 1)):
        shaped = kernel if size == 1 else kernel[..., None]
        s = spectrum(CircularConvolution(shaped, size))
        for value in (s.frobenius, s.sigma_max):
            assert value.lower <= small <= value.upper
            assert value.upper <= 1e-13 + 2.0 * small


def test_a_kernel_of_one_tap_repeats_its_own_values() -> None:
    kernel = drawn((3, 5, 1, 1))
    s = spectrum(CircularConvolution(kernel, (3, 4)))
    own = torch.linalg.svdvals(kernel[:, :, 0, 0])
    assert s.sigma is not None
    assert torch.allclose(s.sigma, own.repeat_interleave(12), rtol=1e-9)


def test_batches_of_frequencies_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    op = CircularConvolution(drawn((3, 2, 3, 3)), (4, 6))
    whole = spectrum(op)
    monkeypatch.setattr("spectrank.linalg.implicit.circular._BATCH_ENTRIES", 1)
    batched = spectrum(op)
    assert whole.sigma is not None
    assert batched.sigma is not None
    assert torch.allclose(whole.sigma, batched.sigma, rtol=1e-12)
    assert whole.schatten4 is not None
    assert batched.schatten4 is not None
    assert whole.schatten4.value == pytest.approx(batched.schatten4.value, rel=1e-13)


def test_a_certificate_is_not_claimed() -> None:
    op = CircularConvolution(drawn((3, 2, 3)), 5)
    top = spectrum(op, certify="deterministic").sigma_max
    assert top.error_kind == "rounding"
    assert top.reason is not None
    assert top.reason.startswith("no certificate")


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    sides=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    outputs=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    groups=st.integers(1, 3),
    exponent=st.sampled_from([-300, -60, 0, 60, 300]),
)
def test_any_convolution_of_one_axis_is_enclosed_at_any_scale(
    sides: tuple[int, int, int],
    outputs: int,
    stride: int,
    dilation: int,
    groups: int,
    exponent: int,
) -> None:
    out, channels, taps = sides
    kernel = drawn((out * groups, channels, taps), seed=taps)
    size = (outputs * stride,)
    whole = explicit(kernel, size, (stride,), (dilation,), groups)
    truth = torch.linalg.svdvals(whole)
    scaled = kernel * 2.0**exponent
    s = spectrum(CircularConvolution(scaled, size, stride, dilation, groups))
    assert s.sigma is not None
    assert s.sigma_error is not None
    found, error = s.sigma / 2.0**exponent, s.sigma_error / 2.0**exponent
    assert ((found - truth).abs() <= error + 1e-14 * truth[0]).all()
    assert found[0] == pytest.approx(float(truth[0]), rel=1e-12)


def test_what_is_no_convolution_of_a_torus_is_refused() -> None:
    kernel = torch.randn(3, 2, 3)
    with pytest.raises(DomainError, match=r"strides that divide its size.*multiple"):
        CircularConvolution(kernel, 7, 2)
    with pytest.raises(DomainError, match="groups divide the outputs"):
        CircularConvolution(kernel, 8, groups=2)
    with pytest.raises(ShapeError, match="one number for each of 1 axes"):
        CircularConvolution(kernel, (8, 8))
    with pytest.raises(DomainError, match="whole numbers of at least 1"):
        CircularConvolution(kernel, 0)
    with pytest.raises(ShapeError, match="kernel has 3 or 4 or 5 axes"):
        CircularConvolution(kernel[0], 8)
