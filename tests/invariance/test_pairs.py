"""Pair laws and the rate of the other pairs, against autograd."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.invariance.find import pair_candidates
from spectrank.invariance.laws import GramTerm, Law, Laws, evaluate, polar
from spectrank.invariance.pairs import (
    as_slopes,
    coactivation_classes,
    gap_rate,
    matrix_count,
    pair_laws,
    restrict,
)

ACTIVATIONS = {
    "relu": functional.relu,
    "leaky": lambda z: functional.leaky_relu(z, 0.2),
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "squared": lambda z: functional.relu(z) ** 2,
    "linear": lambda z: z,
}


def _gap_law(a, n, c, skip=0):
    """W_2^T W_2 - W_1 W_1^T - b b^T as printed in the rate, with a second reader."""
    terms = [
        GramTerm("w2", (c, n), (1,), None, 1.0),
        GramTerm("w1", (n, a), (0,), None, -1.0),
        GramTerm("b1", (n, 1), (0,), None, -1.0),
    ]
    if skip:
        terms.append(GramTerm("skip", (skip, n), (1,), None, 1.0))
    return Law("pair fc", "pair", "gram", tuple(terms), (n, n), 1, "", "derived")


def _run(sigma, seed, *, n=5, skip=2, num=7):
    """Random two-layer net with a second reader; its tensors, gradients, pieces."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    w = {"w1": draw(n, 3), "b1": draw(n), "w2": draw(4, n), "skip": draw(skip, n)}
    x, target = draw(num, 3), draw(num, 4)
    leaves = {name: item.requires_grad_() for name, item in w.items()}
    z = x @ leaves["w1"].T + leaves["b1"]
    z.retain_grad()
    h = sigma(z)
    h.retain_grad()
    out = torch.tanh(h @ leaves["w2"].T) + (h @ leaves["skip"].T).sum(1, keepdim=True)
    ((out - target) ** 2).mean().backward()
    slope = torch.func.vmap(torch.func.vmap(torch.func.grad(sigma)))(z.detach())
    grads = {name: item.grad for name, item in leaves.items()}
    return leaves, grads, z.detach(), slope, h


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rate_of_the_gap_is_that_of_autograd(name, seed):
    w, g, z, slope, h = _run(ACTIVATIONS[name], seed)
    law = _gap_law(3, 5, 4, skip=2)
    by_autograd = -2 * polar(law, w, g)
    rate = gap_rate(z, slope, h.grad, post=h)
    assert torch.allclose(rate, by_autograd, atol=1e-12)
    if name in {"relu", "leaky", "linear"}:
        assert torch.allclose(gap_rate(z, slope, h.grad), by_autograd, atol=1e-12)
    else:
        wrong = gap_rate(z, slope, h.grad) - by_autograd
        assert float(wrong.abs().max()) > 1e-3


def test_the_rate_of_a_pair_is_the_sum_over_samples_on_which_slopes_differ():
    _, _, z, slope, h = _run(ACTIVATIONS["relu"], 3)
    rate = gap_rate(z, slope, h.grad)
    by_hand = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(len(z)):
        for u in range(5):
            for v in range(5):
                d = slope[i, v] - slope[i, u]
                k = h.grad[i, u] * z[i, v] - z[i, u] * h.grad[i, v]
                by_hand[u, v] -= d * k
    assert torch.allclose(rate, by_hand, atol=1e-13)
    assert float(rate.diagonal().abs().max()) < 1e-13
    assert float(rate.abs().max()) > 1e-3


def test_one_step_adds_the_rate_and_the_gap_of_the_gradients_exactly():
    w, g, z, slope, h = _run(ACTIVATIONS["gelu"], 4)
    law, eta = _gap_law(3, 5, 4, skip=2), 0.3
    after = {name: w[name].detach() - eta * g[name] for name in w}
    rate = gap_rate(z, slope, h.grad, post=h)
    predicted = evaluate(law, w) + eta * rate + eta**2 * evaluate(law, g)
    assert torch.allclose(evaluate(law, after), predicted, atol=1e-12)


def _with_patterns(patterns, seed):
    """A relu layer whose units take the given patterns, by their own inputs."""
    generator = torch.Generator().manual_seed(seed)
    num, n = patterns.shape
    # One input per sample and a large bias-free diagonal make any pattern.
    x = torch.eye(num, dtype=torch.float64)
    size = 0.5 + torch.rand(n, num, generator=generator, dtype=torch.float64)
    w1 = torch.where(torch.tensor(patterns.T), size, -size)
    w2 = torch.randn(4, n, generator=generator, dtype=torch.float64)
    target = torch.randn(num, 4, generator=generator, dtype=torch.float64)
    w = {"w1": w1, "b1": torch.zeros(n, dtype=torch.float64), "w2": w2}
    w = {name: item.requires_grad_() for name, item in w.items()}
    z = x @ w["w1"].T + w["b1"]
    ((functional.relu(z) @ w["w2"].T - target) ** 2).mean().backward()
    return w, {name: item.grad for name, item in w.items()}, z.detach()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_of_a_class_are_conserved_and_pairs_of_two_classes_are_not(seed):
    patterns = np.array(
        [
            [1, 1, 0, 1, 0, 0, 1],
            [0, 0, 1, 0, 0, 1, 0],
            [1, 1, 1, 1, 0, 1, 1],
        ],
        dtype=bool,
    )
    w, g, z = _with_patterns(patterns, seed)
    law = _gap_law(3, 7, 4)
    assert np.array_equal((z > 0).numpy(), patterns)
    found = pair_laws(Laws((law,)), {"pair fc": z > 0}, smallest=1)
    assert [item.name for item in found] == [
        "pair fc class 0",
        "pair fc class 2",
        "pair fc class 4",
    ]
    assert [item.shape for item in found] == [(4, 4), (2, 2), (1, 1)]
    scale = max(float(item.abs().max()) for item in g.values())
    for item in found:
        assert float(polar(item, w, g).abs().max()) < 1e-13 * scale
    between = restrict(law, np.array([0, 2]))
    assert float(polar(between, w, g)[0, 1].abs()) > 1e-4
    assert "dead on all" in found[2].condition
    for name, units in (("w1", g["w1"][4]), ("w2", g["w2"][:, 4])):
        assert float(units.abs().max()) == 0.0, name
    assert "dead" not in found[1].condition
    assert [item.name for item in pair_laws(Laws((law,)), {"pair fc": z > 0})] == [
        "pair fc class 0",
        "pair fc class 2",
    ]


def test_a_restricted_law_is_a_block_of_the_whole_in_the_order_asked_for():
    w, _, _, _, _ = _run(ACTIVATIONS["relu"], 5)
    law, units = _gap_law(3, 5, 4, skip=2), np.array([3, 0, 4])
    block = evaluate(restrict(law, units), w)
    assert torch.allclose(block, evaluate(law, w)[units][:, units], atol=1e-13)
    again = restrict(restrict(law, units), np.array([2, 0]))
    expected = evaluate(law, w)[[4, 3]][:, [4, 3]]
    assert torch.allclose(evaluate(again, w), expected, atol=1e-13)


def test_zero_counts_as_dead_for_relu_and_the_rate_says_why():
    # The only sample has z_u = 0 and z_v > 0: "nonnegative" would call them co-active.
    z = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    g = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    slopes = as_slopes(z)
    assert [list(c) for c in coactivation_classes(slopes)] == [[0], [1]]
    leaf = z.clone().requires_grad_()
    functional.relu(leaf).sum().backward()
    assert torch.equal(slopes, leaf.grad)
    leaf = z.clone().requires_grad_()
    functional.leaky_relu(leaf, 0.2).sum().backward()
    assert torch.equal(as_slopes(z, 0.2), leaf.grad)
    assert float(gap_rate(z, slopes, g)[0, 1]) == -1.0
    assert float(gap_rate(z, torch.ones_like(z), g).abs().max()) == 0.0


@pytest.mark.parametrize(
    ("units", "enter", "leave", "expected"),
    [(10, 3, 1, 34), (4, 3, 4, 10), (6, 1, 1, 11), (1, 2, 1, 1)],
)
def test_the_count_is_the_rank_of_the_jacobian(units, enter, leave, expected):
    generator = torch.Generator().manual_seed(units)
    a = torch.randn(units, enter, generator=generator, dtype=torch.float64)
    b = torch.randn(leave, units, generator=generator, dtype=torch.float64)
    jacobians = torch.autograd.functional.jacobian(
        lambda a, b: (b.T @ b - a @ a.T).reshape(-1), (a, b)
    )
    flat = torch.cat([item.reshape(units**2, -1) for item in jacobians], 1)
    assert int(torch.linalg.matrix_rank(flat, rtol=1e-10)) == expected
    assert matrix_count(units, enter + leave) == expected
    terms = (
        GramTerm("a", (units, enter), (0,), None, -1.0),
        GramTerm("b", (leave, units), (1,), None, 1.0),
    )
    law = Law("g", "pair", "gram", terms, (units, units), 0, "", "derived")
    assert restrict(law, np.arange(units)).count == expected


def test_what_does_not_fit_is_refused_in_words():
    law = _gap_law(3, 5, 4)
    with pytest.raises(UnknownNameError, match="candidates are pair fc"):
        pair_laws(Laws((law,)), {"gc": np.ones((2, 5), bool)})
    with pytest.raises(ShapeError, match=r"shape \(samples, 5\)"):
        pair_laws(Laws((law,)), {"pair fc": np.ones((2, 4), bool)})
    with pytest.raises(DomainError, match="distinct units"):
        restrict(law, np.array([0, 0]))
    with pytest.raises(ShapeError, match="one shape"):
        gap_rate(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ShapeError, match="samples, units"):
        coactivation_classes(torch.ones(2, 3, 4))


def test_slopes_of_each_unit_are_in_no_pattern():
    """Units of one pattern have one slope where the slope is shared, not of a PReLU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    for activation, expected in (
        (nn.PReLU(4), []),
        (nn.PReLU(), ["pair 0"]),
        (nn.LeakyReLU(), ["pair 0"]),
    ):
        model = nn.Sequential(nn.Linear(1, 4), activation, nn.Linear(4, 2)).double()
        with torch.no_grad():
            # Two units of each pattern, without a bias.
            model[0].weight.copy_(torch.tensor([[1.0], [2.0], [-1.0], [-0.5]]))
            model[0].bias.zero_()
            model[2].weight.copy_(torch.tensor([[0.3, 1.0, 0.5, 2], [0.1, 1, 3, 1]]))
        candidates = pair_candidates(model, x)
        assert [law.name for law in candidates] == expected
        laws = pair_laws(
            candidates, {"0": model[0](x).detach() > 0} if expected else {}
        )
        assert len(laws) == 2 * len(expected)
        weights = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(12, 2)
        (model(x) * weights).sum().backward()
        w = {name: p.detach() for name, p in model.named_parameters()}
        g = {name: p.grad for name, p in model.named_parameters()}
        for law in laws:
            assert float(polar(law, w, g).abs().max()) < 1e-13


def test_slopes_may_be_named_by_their_layer():
    law = _gap_law(3, 5, 4)
    slopes = np.ones((2, 5), bool)
    by_layer = pair_laws(Laws((law,)), {"fc": slopes})
    assert [item.name for item in by_layer] == ["pair fc class 0"]
    twice = {"fc": slopes, "pair fc": slopes}
    with pytest.raises(DomainError, match="twice for 'pair fc'"):
        pair_laws(Laws((law,)), twice)
    patterns = SimpleNamespace(layers={"fc": 1, "head": 2}, slopes=lambda name: slopes)
    with pytest.raises(
        ArgumentTypeError, match="a mapping from candidates, got Simple"
    ):
        pair_laws(Laws((law,)), patterns)
