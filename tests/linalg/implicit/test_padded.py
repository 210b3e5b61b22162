"""Zero-padded convolutions against the matrix written out and against layers."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spectrank.errors import DomainError
from spectrank.linalg import spectrum
from spectrank.linalg.implicit import PaddedConvolution, padded
from spectrank.metrics import get_metric, stable_rank

CASES = [
    # kernel, size, pads, stride, dilation, groups
    ((3, 2, 3), (7,), ((1, 1),), (1,), (1,), 1),
    ((3, 2, 3), (8,), ((0, 0),), (3,), (1,), 1),
    ((4, 2, 3, 3), (4, 6), ((2, 2), (1, 1)), (2, 1), (1, 2), 2),
    ((2, 3, 3, 2), (5, 4), ((1, 0), (0, 2)), (1, 1), (2, 1), 1),
    ((2, 2, 2, 2, 2), (2, 3, 4), ((1, 1), (1, 1), (0, 1)), (1, 1, 2), (1, 1, 1), 1),
    ((4, 1, 3, 3), (6, 6), ((3, 3), (3, 3)), (3, 3), (1, 1), 4),
]


def explicit(
    kernel: Tensor,
    size: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """y[o, p] = sum K[o, c, t] x[c, s p + d t - before] where that is an input."""
    out, per_group, *taps = kernel.shape
    reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
    outputs = [
        (n + sum(pad) - r - 1) // s + 1
        for n, pad, r, s in zip(size, pads, reach, stride, strict=True)
    ]
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
                s * a + d * b - pad[0]
                for s, a, d, b, pad in zip(stride, p, dilation, t, pads, strict=True)
            )
            if q in place:
                whole[row, (first + c) * len(grid) + place[q]] += kernel[(o, c, *t)]
    return whole


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_norms_are_those_of_the_matrix_written_out(
    case: tuple[Any, ...], transposed: bool
) -> None:
    shape, size, pads, stride, dilation, groups = case
    kernel = drawn(shape)
    whole = explicit(kernel, size, pads, stride, dilation, groups)
    op = PaddedConvolution(kernel, size, pads, stride, dilation, groups, transposed)
    expected = whole.mT if transposed else whole
    assert op.shape == tuple(expected.shape)
    assert torch.allclose(op.dense(), expected, rtol=0, atol=1e-15)
    truth = torch.linalg.svdvals(whole)
    s = spectrum(op, ["small_end"])
    assert s.sigma is not None
    assert s.sigma_error is not None
    assert ((s.sigma - truth).abs() <= s.sigma_error + 1e-14 * truth[0]).all()


@pytest.mark.parametrize("case", CASES)
def test_a_matrix_that_is_formed_in_pieces_is_the_same(
    case: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, size, pads, stride, dilation, groups = case
    kernel = drawn(shape)
    op = PaddedConvolution(kernel, size, pads, stride, dilation, groups)
    monkeypatch.setattr(padded, "_IMAGE_ENTRIES", 7 * op.shape[1])
    whole = explicit(kernel, size, pads, stride, dilation, groups)
    torch.testing.assert_close(op.dense(), whole, rtol=1e-13, atol=1e-13)
    monkeypatch.setattr(padded, "_IMAGE_ENTRIES", 1)
    torch.testing.assert_close(op.dense(), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_norms_without_forming_are_those_of_the_matrix(
    case: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, size, pads, stride, dilation, groups = case
    kernel = drawn(shape)
    op = PaddedConvolution(kernel, size, pads, stride, dilation, groups)
    whole = explicit(kernel, size, pads, stride, dilation, groups)
    truth = torch.linalg.svdvals(whole)
    monkeypatch.setattr(padded, "_NORMS_SIDE", 0)
    s = spectrum(op, ["frobenius", "sigma_max"])
    assert s.route == "lanczos"
    assert s.sigma is None
    assert s.frobenius.value == pytest.approx(float(whole.norm()), rel=1e-13)
    assert s.frobenius.error_kind == "certified"
    top = s.sigma_max
    assert top.lower <= float(truth[0]) * (1 + 1e-13)
    assert float(truth[0]) * (1 - 1e-13) <= top.upper
    assert top.value == pytest.approx(float(truth[0]), rel=1e-6)
    assert top.error_kind == "probabilistic"


@pytest.mark.parametrize("rtol", [1e-2, 1e-6])
def test_a_large_operator_is_enclosed_to_the_width_asked_for(rtol: float) -> None:
    # 3200 x 1600: large enough not to be formed, small enough for an eigensolver.
    kernel = drawn((8, 4, 3, 3)).float()
    op = PaddedConvolution(kernel, 20, 1)
    s = spectrum(op, ["sigma_max"], rtol=rtol)
    assert s.route == "lanczos"
    assert s.sigma_max.relative_width <= rtol * (1 + 1e-6)
    basis = torch.eye(1600, dtype=torch.float64).reshape(1600, 4, 20, 20)
    whole = nn.functional.conv2d(basis, kernel.double(), padding=1).flatten(1)
    top = float(torch.linalg.eigvalsh(whole @ whole.mT)[-1].sqrt())
    assert s.sigma_max.lower <= top * (1 + 1e-12)
    assert top * (1 - 1e-12) <= s.sigma_max.upper


def test_steps_that_run_out_leave_a_wider_enclosure_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    op = PaddedConvolution(drawn((4, 4, 3, 3)), 12, 1)
    truth = float(torch.linalg.matrix_norm(op.dense(), 2))
    monkeypatch.setattr(padded, "_NORMS_SIDE", 0)
    monkeypatch.setattr(padded, "_KEPT_ENTRIES", 8 * 576)
    top = spectrum(op, ["sigma_max"], certify="deterministic").sigma_max
    assert top.lower <= truth <= top.upper
    assert top.relative_width > 1e-3
    assert top.reason is not None
    assert top.reason.startswith("wider than asked for")
    assert "no certificate" in top.reason


def test_an_operator_too_large_to_form_says_so_and_keeps_its_norms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(padded, "_FORMED_SIDE", 4)
    s = spectrum(PaddedConvolution(drawn((2, 2, 3)), 8, 1), ["sigma"])
    assert s.sigma is None
    assert s.status == "ok"
    assert s.reason is not None
    assert "16 x 16 is too large to form" in s.reason
    # What needs values is a skip with that reason, never an exception.
    for name in ("nuclear_norm", "condition_number", "participation_ratio"):
        value = get_metric(name)(s)
        assert (value.status, value.reason) == ("skipped", s.reason)
    assert stable_rank(s).status == "ok"


def test_norms_that_were_all_that_was_asked_for_are_still_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(padded, "_NORMS_SIDE", 0)
    s = spectrum(PaddedConvolution(drawn((2, 2, 3)), 8, 1), ["sigma_max"])
    assert s.sigma is None
    with pytest.raises(DomainError, match="got one with norms only"):
        get_metric("nuclear_norm")(s)


def test_an_operator_that_is_formed_is_no_noise_and_its_small_end_is_known() -> None:
    op = PaddedConvolution(drawn((3, 3, 3, 3)), 6, 1)
    s = spectrum(op, ["sigma"])
    assert s.route == "padded-gram"
    spikes = get_metric("num_spikes")(s)
    assert spikes.status == "skipped"
    assert spikes.reason is not None
    assert "zeros or repetitions by construction" in spikes.reason
    # Nearly singular: what a Gram matrix cannot see takes a dense SVD.
    kernel = torch.ones(2, 2, 1, dtype=torch.float64)
    kernel[1, 1] += 1e-9
    s = spectrum(PaddedConvolution(kernel, 8, 0), ["small_end"])
    assert s.route == "padded-svd"
    assert s.resolves_small_end
    condition = get_metric("condition_number")(s)
    truth = torch.linalg.cond(kernel[..., 0])
    assert condition.value == pytest.approx(float(truth), rel=1e-5)


LAYERS: list[tuple[nn.Module, tuple[int, ...], dict[str, Any]]] = [
    (
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        (4, 7, 5),
        {"padding": 1, "stride": 2, "groups": 2},
    ),
    (
        nn.Sequential(nn.ZeroPad1d((1, 2)), nn.Conv1d(2, 3, 4, bias=False)),
        (2, 9),
        {"padding": ((1, 2),)},
    ),
    (nn.Conv3d(1, 2, 2, bias=False), (1, 3, 4, 3), {}),
]


@pytest.mark.parametrize(("layer", "input_shape", "options"), LAYERS)
def test_a_layer_is_this_operator(
    layer: nn.Module, input_shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    layer = layer.double()
    x = torch.zeros(1, *input_shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(layer, x)
    (weight,) = layer.parameters()
    op = PaddedConvolution(weight, input_shape[1:], **options)
    assert torch.allclose(op.dense(), jacobian.reshape(op.shape), rtol=0, atol=1e-14)


def test_outputs_are_counted_before_anything_is_measured() -> None:
    kernel = torch.randn(2, 2, 5)
    with pytest.raises(DomainError, match="must fit into the padded input"):
        PaddedConvolution(kernel, 3)
    with pytest.raises(DomainError, match="padding is made of whole numbers"):
        PaddedConvolution(kernel, 8, -1)


def test_taps_that_meet_no_input_make_a_zero_matrix() -> None:
    kernel = torch.zeros(1, 1, 3)
    kernel[0, 0, 0] = 1.0
    # One output, whose first tap stands on the padding.
    op = PaddedConvolution(kernel, 2, ((1, 0),))
    assert op.dense().eq(0).all()
    assert spectrum(op).status == "degenerate"
