"""Products where forward mode is of another Jacobian, or there is none at all."""

import numpy as np
import pytest
import torch
from ntk_models import brute_force
from torch import nn
from torch.utils.checkpoint import checkpoint

from spectrank.ntk.dynamics import linearize
from spectrank.ntk.empirical import empirical
from spectrank.ntk.jacobian import Rows
from spectrank.ntk.jacobian.products import VectorProducts
from spectrank.ntk.operator import operator

F64 = torch.float64
# float64 sums of at most a few hundred products.
AGREEMENT = 1e-10


class Padded(nn.Module):
    """A readout that shares the weight of an embedding with a padded row."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 5, padding_idx=0)
        self.last = nn.Linear(5, 6, bias=False)
        self.last.weight = self.embed.weight

    def forward(self, tokens):
        return self.last(torch.tanh(self.embed(tokens).mean(1)))


class Frozen(nn.Module):
    """A layer whose second call is a constant."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            constant = self.inner(x)
        return self.inner(torch.tanh(x)) * constant


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity and the tangent of the sign."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sign()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def jvp(ctx, tangent):
        return torch.zeros_like(tangent)


class OldStraight(torch.autograd.Function):
    """The same in the style that ``torch.func`` does not take."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Signs(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.first, self.last, self.sign = nn.Linear(4, 5), nn.Linear(5, 2), sign

    def forward(self, x):
        return self.last(self.sign(self.first(x)))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        hidden = checkpoint(lambda y: torch.tanh(self.first(y)), x, use_reentrant=False)
        return self.last(hidden)


TOKENS = torch.tensor([[1, 0, 2], [3, 3, 5], [0, 0, 4]])
CASES = {
    "padded": (Padded, TOKENS),
    "no_grad": (Frozen, None),
    "tangent of its own": (lambda: Signs(Straight.apply), None),
    "old style": (lambda: Signs(OldStraight.apply), None),
    "checkpoint": (Checkpointed, None),
    "bag": (lambda: nn.EmbeddingBag(6, 3), TOKENS),
}


def case(name):
    made, x = CASES[name]
    g = torch.Generator().manual_seed(7)
    model = made().double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, dtype=F64, generator=g))
    return model, torch.randn(3, 4, dtype=F64, generator=g) if x is None else x


def close(found, truth):
    found, truth = torch.as_tensor(found), torch.as_tensor(truth)
    assert found.shape == truth.shape
    assert float((found - truth).abs().max()) <= AGREEMENT * float(truth.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_gives_the_kernel_of_backward_passes(name):
    model, x = case(name)
    for outputs in ("full", "trace"):
        truth = brute_force(model, x, outputs=outputs)
        for method in ("products", "jacobian", "auto"):
            for block in (None, 2):
                options = {"outputs": outputs, "method": method, "block": block}
                close(empirical(model, x, **options), truth)
            two = empirical(model, x[:2], x, outputs=outputs, method=method)
            close(two, truth[:2])


@pytest.mark.parametrize("name", CASES)
def test_the_operator_is_that_of_backward_passes(name):
    model, x = case(name)
    truth = brute_force(model, x)
    n, _, c, _ = truth.shape
    truth = truth.permute(0, 2, 1, 3).reshape(n * c, n * c)
    op = operator(model, x, block=2)
    # A vector of zeros tells nothing of forward mode: the next one must.
    assert not (op @ np.zeros(n * c)).any()
    close(op @ np.eye(n * c), truth)
    close(op @ np.eye(n * c), truth)


def test_the_check_sees_a_tangent_of_another_jacobian_and_no_other():
    for name in ("padded", "no_grad", "tangent of its own"):
        model, x = case(name)
        rows = Rows(model, [n for n, _ in model.named_parameters()])
        for scale in (1.0, 1e-200, 1e150):
            t = {n: scale * torch.ones_like(p)[None] for n, p in rows.values.items()}
            with torch.no_grad():
                trusted = VectorProducts(rows).push(x, t, check=False)
                checked = VectorProducts(rows).push(x, t, check=True)
            assert float((trusted - checked).abs().max()) > 0.01 * scale
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    products = VectorProducts(Rows(model, ["0.weight", "2.bias"]))
    t = {
        "0.weight": torch.ones(1, 5, 4, dtype=F64),
        "2.bias": torch.ones(1, 2).double(),
    }
    with torch.no_grad():
        found = products.push(torch.ones(3, 4, dtype=F64), t, check=True)
        again = products.push(torch.ones(3, 4, dtype=F64), t, check=False)
    assert torch.equal(found, again)


def test_the_linearised_model_does_not_train_a_padded_row():
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.last = nn.Embedding(6, 5, padding_idx=0), nn.Linear(5, 2)

        def forward(self, tokens):
            return self.last(self.embed(tokens).tanh().mean(1))

    torch.manual_seed(0)
    model = Reading().double()
    linear = linearize(model)
    K = brute_force(linear, TOKENS)
    close(K, brute_force(model, TOKENS))
    linear(TOKENS).square().sum().backward()
    gradient = linear.model.embed.weight.grad
    assert not gradient[0].any()
    assert gradient[1:].any()


def test_the_operator_takes_no_complex_vector_and_any_number_of_real_ones():
    op = operator(nn.Linear(2, 1).double(), torch.ones(3, 2, dtype=F64))
    with pytest.raises(TypeError, match="takes real vectors, got complex"):
        op @ (1j * np.ones(3))
    assert (op @ np.ones((3, 0))).shape == (3, 0)
