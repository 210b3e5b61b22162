"""The largest learning rate: gradient descent on torch's losses falls or diverges."""

import itertools
import math

import pytest
import torch

from spectrank.errors import DomainError, ShapeError
from spectrank.ntk.analysis import spectrum
from spectrank.ntk.dynamics import largest_learning_rate

N, C = 4, 3


def flat_kernel(seed=0):
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(N * C, 40, dtype=torch.float64, generator=generator)
    return J @ J.T


def unflat(K):
    return K.reshape(N, C, N, C).permute(0, 2, 1, 3)


def final_loss(K, loss, learning_rate, steps):
    """Gradient descent in outputs by torch's own loss and autograd."""
    f = torch.zeros(N * C, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(steps):
        value = loss(f.reshape(N, C))
        losses.append(float(value.detach()))
        gradient = torch.autograd.grad(value, f)[0]
        f = (f - learning_rate * K @ gradient).detach().requires_grad_()
    return losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_squares_diverge_above_the_limit_and_not_below(reduction, factor):
    K = flat_kernel()
    y = torch.arange(N * C, dtype=torch.float64).reshape(N, C)
    torch_loss = torch.nn.MSELoss(reduction=reduction)

    def loss(f):
        return factor * torch_loss(f, y)

    limit = largest_learning_rate(unflat(K), reduction=reduction, factor=factor)
    below = final_loss(K, loss, 0.98 * limit, 400)
    assert all(a >= b for a, b in itertools.pairwise(below))
    above = final_loss(K, loss, 1.02 * limit, 400)
    assert above[-1] > above[-2] > above[200]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_falls_at_every_step_below_its_limit(reduction):
    K = flat_kernel()
    labels = torch.tensor([0, 1, 2, 1])
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    limit = largest_learning_rate(unflat(K), loss="cross_entropy", reduction=reduction)
    losses = final_loss(K, lambda f: loss(f, labels), 0.98 * limit, 200)
    assert all(a >= b for a, b in itertools.pairwise(losses))
    # Half the curvature of two logits at zero margin is attained: near (1/2, 1/2) a
    # kernel of one direction diverges just above, by the second difference there.
    k = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    K2 = k.reshape(1, 2, 1, 2).permute(0, 2, 1, 3)
    limit = largest_learning_rate(K2, loss="cross_entropy", reduction="sum")
    p = torch.full((2,), 0.5, dtype=torch.float64)
    H = torch.diag(p) - torch.outer(p, p)
    top = float(torch.linalg.eigvals(torch.eye(2) - limit * k @ H).abs().max())
    assert top == pytest.approx(1.0, rel=1e-12)


def test_half_the_sum_of_squares_is_the_rate_of_the_spectrum():
    K = unflat(flat_kernel())
    want = spectrum(K).value("kernel", "largest_learning_rate")
    got = largest_learning_rate(K, reduction="sum", factor=0.5)
    assert got == pytest.approx(want, rel=1e-12)


def test_a_shared_kernel_divides_by_the_outputs_that_share_it():
    K = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    # Mean over n c values of (f - y)^2: rate 2 / (n c).
    assert largest_learning_rate(K) == pytest.approx(2.0 / 4.0)
    assert largest_learning_rate(K, num_outputs=5) == pytest.approx(10.0 / 4.0)
    assert largest_learning_rate(torch.zeros(2, 2)) == math.inf
    with pytest.raises(DomainError, match="must be finite"):
        largest_learning_rate(K * math.nan)


def test_the_limit_of_what_is_no_kernel_is_refused():
    K = torch.diag(torch.tensor([4.0, -1.0]))
    with pytest.raises(DomainError, match="positive semi-definite, the smallest"):
        largest_learning_rate(K)
    with pytest.raises(DomainError, match="num_outputs must be at least 1, got 0"):
        largest_learning_rate(K.abs(), num_outputs=0)
    K = torch.eye(2)[:, :, None, None] * torch.eye(3)
    assert largest_learning_rate(K, num_outputs=3) == largest_learning_rate(K)
    with pytest.raises(ShapeError, match="has the axes, 3, got 2"):
        largest_learning_rate(K, num_outputs=2)
