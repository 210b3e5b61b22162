"""Stable rank normalisation of a layer: what it computes, and what it refuses."""

import pytest
import torch
from srn_layers import (
    BFLOAT16,
    FLOAT32,
    by_svd,
    linear,
    matrix,
    norm_of,
    spectrum_of,
    stable_rank,
)
from tolerances import FLOAT64
from torch import nn

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.init.control import stable_rank_norm


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (7, 7)])
def test_weight_equals_the_closed_form_of_an_svd(shape, variant, training, exact):
    W = matrix(*shape)
    layer = linear(W).train(training)
    stable_rank_norm(layer, 1.7, variant=variant, exact=exact)
    expected = by_svd(W, 1.7, variant)
    assert torch.allclose(layer.weight, expected, rtol=0.0, atol=FLOAT64)
    assert stable_rank(layer.weight) == pytest.approx(1.7, rel=FLOAT64)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, FLOAT64), (torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)],
)
@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_target_is_met_in_every_precision(dtype, tolerance, variant):
    layer = linear(matrix(40, 30).to(dtype))
    stable_rank_norm(layer, 2.0, variant=variant)
    assert layer.weight.dtype == dtype
    assert stable_rank(layer.weight) == pytest.approx(2.0, rel=tolerance)


def test_fraction_is_a_share_of_the_shorter_side():
    layer = stable_rank_norm(linear(matrix(40, 30, "flat")), fraction=0.3)
    assert norm_of(layer).stable_rank == pytest.approx(9.0)
    assert stable_rank(layer.weight) == pytest.approx(9.0, rel=FLOAT64)
    least = stable_rank_norm(linear(matrix(4, 3)), fraction=0.1)
    assert norm_of(least).stable_rank == 1.0


@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_a_weight_below_the_target_is_used_bit_for_bit(variant):
    W = matrix(name="spike").float()
    layer = stable_rank_norm(linear(W), 3.0, variant=variant)
    assert torch.equal(layer.weight, W)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_target_is_not_exceeded_whatever_the_vectors(seed, variant):
    # Any unit u and v, not singular ones: the bound needs orthogonal parts alone.
    g = torch.Generator().manual_seed(seed)
    for trial in range(20):
        W = torch.randn(8, 6, dtype=torch.float64, generator=g)
        r = 1.0 + 3.0 * float(torch.rand((), generator=g))
        layer = stable_rank_norm(linear(W).eval(), r, variant=variant)
        state = norm_of(layer)
        state._u.copy_(torch.randn(8, dtype=torch.float64, generator=g))
        state._v.copy_(torch.randn(6, dtype=torch.float64, generator=g))
        assert stable_rank(layer.weight) <= r * (1 + FLOAT64), trial


CONVOLUTIONS = [
    (nn.Conv1d, 3, 0),
    (nn.Conv2d, (3, 2), 0),
    (nn.Conv3d, (3, 2, 1), 0),
    (nn.ConvTranspose1d, 3, 1),
    (nn.ConvTranspose2d, (3, 2), 1),
    (nn.ConvTranspose3d, (3, 2, 1), 1),
]


@pytest.mark.parametrize(("kind", "size", "dim"), CONVOLUTIONS)
def test_kernels_are_flattened_with_the_outputs_first(kind, size, dim):
    torch.manual_seed(0)
    layer = kind(4, 6, size, dtype=torch.float64)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, 1.5)
    assert layer.weight.shape == W.shape
    rows = W if dim == 0 else W.transpose(0, 1)
    expected = by_svd(rows.flatten(1), 1.5, "keep").view_as(rows)
    expected = expected if dim == 0 else expected.transpose(0, 1)
    assert torch.allclose(layer.weight, expected, rtol=0.0, atol=FLOAT64)


def test_any_axis_may_be_the_outputs():
    # Moving axis 2 of 4 to the front is a cycle of three: its inverse is another one,
    # unlike that of a swap, and all sizes differ so that a wrong one would show.
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, (5, 2), dtype=torch.float64)
    W = layer.weight.detach().clone()
    stable_rank_norm(layer, 1.5, dim=2)
    flat = torch.stack([W[:, :, k].flatten() for k in range(5)])
    expected = by_svd(flat, 1.5, "keep")
    for k in range(5):
        slab = expected[k].view(4, 3, 2)
        assert torch.allclose(layer.weight[:, :, k], slab, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
@pytest.mark.parametrize("norm", [None, 0.7])
@pytest.mark.parametrize("target", [1.0, 1.6, 4.0])
def test_gradient_is_that_of_the_map_with_the_vectors_fixed(variant, norm, target):
    layer = linear(matrix(5, 4)).eval()
    stable_rank_norm(layer, target, variant=variant, spectral_norm=norm)
    # Perturbed, so that u and v are no singular vectors of it.
    W = matrix(5, 4) + 0.05 * matrix(5, 4, "flat", seed=1)
    assert torch.autograd.gradcheck(norm_of(layer), W.clone().requires_grad_())


def test_gradient_leaves_out_the_turn_of_the_vectors_also_where_exact():
    # The false friend: it is not the gradient of the closed form as a function of W.
    W, G = matrix(5, 4), matrix(5, 4, "flat", seed=3)
    layer = stable_rank_norm(linear(W), 1.5, exact=True)
    (layer.weight * G).sum().backward()
    ours = layer.parametrizations.weight.original.grad
    X = W.clone().requires_grad_()
    (whole,) = torch.autograd.grad((by_svd(X, 1.5, "keep") * G).sum(), X)
    assert float((ours - whole).norm() / whole.norm()) > 1e-3
    # Along W itself nothing turns, and there they agree.
    agree = float((ours * W).sum() - (whole * W).sum())
    assert abs(agree) < FLOAT64


def test_full_target_with_a_norm_is_spectral_normalisation():
    W, G = matrix(8, 6), matrix(8, 6, "flat", seed=3)
    ours = stable_rank_norm(linear(W), fraction=1.0, spectral_norm=1.0)
    torch.manual_seed(0)
    theirs = nn.utils.parametrizations.spectral_norm(
        linear(W), n_power_iterations=300, eps=1e-300
    )
    got, expected = ours.weight, theirs.weight
    assert torch.allclose(got, expected, rtol=0.0, atol=FLOAT64)
    (got * G).sum().backward()
    (expected * G).sum().backward()
    slopes = [x.parametrizations.weight.original.grad for x in (ours, theirs)]
    assert torch.allclose(*slopes, rtol=0.0, atol=FLOAT64)


@pytest.mark.parametrize("variant", ["keep", "optimal"])
def test_spectral_norm_and_stable_rank_are_set_together(variant):
    W = matrix(8, 6)
    layer = stable_rank_norm(linear(W), 1.5, variant=variant, spectral_norm=0.3)
    assert float(spectrum_of(layer.weight)[0]) == pytest.approx(0.3, rel=FLOAT64)
    assert stable_rank(layer.weight) == pytest.approx(1.5, rel=FLOAT64)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stable_rank": 0.5}, DomainError, r"\[1, 6\]"),
        ({"stable_rank": 6.5}, DomainError, r"\[1, 6\]"),
        ({}, DomainError, "stated once"),
        ({"stable_rank": 2.0, "fraction": 0.5}, DomainError, "stated once"),
        ({"fraction": 0.0}, DomainError, r"\(0, 1\]"),
        ({"fraction": 1.5}, DomainError, r"\(0, 1\]"),
        ({"fraction": "half"}, ArgumentTypeError, "number"),
        ({"stable_rank": 2, "variant": "best"}, UnknownNameError, "keep, optimal"),
        ({"stable_rank": 2, "iterations": 0}, DomainError, "at least 1"),
        (
            {"stable_rank": 2, "spectral_norm": -1},
            DomainError,
            "positive and finite, got -1; leave it out",
        ),
        ({"stable_rank": 2, "name": "kernel"}, ArgumentTypeError, "'kernel'"),
        ({"stable_rank": 2, "dim": 2}, DomainError, "axis"),
        ({"stable_rank": 2, "generator": 0}, ArgumentTypeError, "Generator, got int"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_changed(options, error, words):
    layer = linear(matrix(8, 6))
    with pytest.raises(error, match=words):
        stable_rank_norm(layer, **options)
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight"]


def test_what_is_no_layer_is_refused():
    with pytest.raises(ArgumentTypeError, match=r"torch\.nn\.Module"):
        stable_rank_norm(torch.ones(3, 3), 2.0)
    with pytest.raises(DomainError, match="real numbers"):
        stable_rank_norm(nn.LazyLinear(3), 2.0)
    with pytest.raises(ShapeError, match="matrix or a kernel"):
        stable_rank_norm(nn.Linear(3, 3), 2.0, name="bias")
    with pytest.raises(DomainError, match="real numbers"):
        stable_rank_norm(nn.Linear(3, 3, device="meta"), 2.0)
