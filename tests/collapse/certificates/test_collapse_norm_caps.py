"""Norm caps against autograd on nets that satisfy them and nets that do not."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from spectrank.collapse.certificates import (
    equal_norms_row,
    norm_cap_rows,
    product_row,
)
from spectrank.errors import DomainError, ShapeError


def relu_net(seed, act=torch.relu):
    """Weights, loss and its gradients of a bias-free net at a random point."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    widths = [5, 7, 6, 3]
    weights = {
        f"w{i}": (0.4 * torch.randn(b, a, **options)).requires_grad_()
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    }
    h = torch.randn(30, 5, **options)
    for name, W in weights.items():
        h = h @ W.T if name == "w2" else act(h @ W.T)
    loss = nn.functional.cross_entropy(h, torch.arange(30) % 3)
    slopes = torch.autograd.grad(loss, list(weights.values()))
    gradients = dict(zip(weights, slopes, strict=True))
    return {k: v.detach() for k, v in weights.items()}, float(loss.detach()), gradients


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_norms_of_a_homogeneous_net_differ_as_its_residuals_do(seed):
    weights, _, gradients = relu_net(seed)
    row = equal_norms_row(weights, gradients, weight_decay=0.3)
    squares = [float(W.square().sum()) for W in weights.values()]
    assert row["value"] == pytest.approx(max(squares) - min(squares), rel=1e-12)
    # Equality, and hence no room: a homogeneous net is on the bound.
    assert row["bound"] == pytest.approx(row["value"], rel=1e-10)
    assert row["verdict"] == "holds"
    # Sigmoid nets are not homogeneous, and the identity is lost.
    weights, _, gradients = relu_net(seed, act=torch.sigmoid)
    slopes = [float((weights[k] * gradients[k]).sum()) for k in weights]
    assert max(slopes) - min(slopes) > 1e-3


def test_the_sum_of_squares_is_capped_below_the_zero_network():
    weights = relu_net(4)[0]
    total = sum(float(W.square().sum()) for W in weights.values())
    decay = 0.5 * 2 * (np.log(3) - 0.2) / total
    rows = norm_cap_rows(
        weights,
        weight_decay=decay,
        loss=0.2,
        loss_at_zero=np.log(3),
    )
    (row,) = rows
    assert row["value"] == pytest.approx(total)
    assert row["bound"] == pytest.approx(2 * np.log(3) / decay)
    assert row["verdict"] == "holds"
    (above,) = norm_cap_rows(
        weights, weight_decay=decay, loss=5.0, loss_at_zero=np.log(3)
    )
    assert above["verdict"] == "not_applicable"
    assert "zero network" in above["reason"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_layer_of_a_homogeneous_net_is_capped_by_its_share(seed):
    weights, loss, gradients = relu_net(seed)
    decay = 1e-3
    zero = (
        loss
        + 0.01
        + 0.5 * decay * sum(float(W.square().sum()) for W in weights.values())
    )
    rows = norm_cap_rows(
        weights,
        weight_decay=decay,
        loss=loss,
        loss_at_zero=zero,
        gradients=gradients,
    )
    layers = [row for row in rows if row["variant"] == "layer"]
    assert [row["subject"] for row in layers] == list(weights)
    slopes = {
        k: float((W * (gradients[k] + decay * W)).sum()) for k, W in weights.items()
    }
    mean = sum(slopes.values()) / 3
    for row in layers:
        own = 2 * zero / decay / 3 + (slopes[row["subject"]] - mean) / decay
        assert row["bound"] == pytest.approx(own, rel=1e-9)
        assert row["value"] <= own
        assert row["verdict"] == "holds"


def test_a_product_of_factors_is_capped_by_their_squares_and_meets_it_in_balance():
    generator = torch.Generator().manual_seed(5)
    options = {"dtype": torch.float64, "generator": generator}
    A, B = torch.randn(4, 6, **options), torch.randn(4, 7, **options)
    row = product_row("head", A, B)
    nuclear = np.linalg.svd((A.T @ B).numpy(), compute_uv=False).sum()
    assert row["value"] == pytest.approx(2 * nuclear, rel=1e-7)
    squares = float(A.square().sum() + B.square().sum())
    assert row["bound"] == pytest.approx(squares, rel=1e-12)
    assert row["verdict"] == "holds"
    assert row["slack"] > 0.1
    u, s, v = torch.linalg.svd(A.T @ B, full_matrices=False)
    root = s[:4].sqrt()[:, None]
    balanced = product_row("head", root * u[:, :4].T, root * v[:4])
    assert balanced["slack"] == pytest.approx(0.0, abs=1e-9 * squares)
    assert balanced["verdict"] == "holds"


def test_bad_requests_are_refused():
    with pytest.raises(DomainError, match="decay above 0"):
        norm_cap_rows({}, weight_decay=0.1, loss=0.1, loss_at_zero=1.0)
    W = {"w": torch.eye(2)}
    with pytest.raises(ShapeError, match="needs a gradient of its shape"):
        equal_norms_row(W, {}, weight_decay=0.1)
    with pytest.raises(ShapeError, match="as many rows of A as of B"):
        product_row("p", torch.eye(2), torch.eye(3))
