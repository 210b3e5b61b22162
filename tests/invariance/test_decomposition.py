"""nu = mu(h): a tree of signs over the paths, checked on random small graphs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.invariance.dags import Dag, dag_of, output_of, paths
from spectrank.invariance.decomposition import path_gradient, path_values, sign_tree


@st.composite
def graphs(draw):
    """Skips, parallel edges, biases, and a slope of its own at every vertex."""
    num_inputs = draw(st.integers(1, 3))
    hidden = draw(st.integers(1, 4))
    n = num_inputs + hidden + 1
    edges = []
    for target in range(num_inputs, n):
        for source in range(target):
            edges += [(source, target)] * draw(st.sampled_from([0, 1, 1, 1, 2]))
    slopes = [draw(st.sampled_from([0.0, 0.2, 1.0, -1.0])) for _ in range(n)]
    constant = draw(st.booleans())
    return Dag(tuple(edges), tuple(slopes), num_inputs, constant)


def by_hand(dag, w, x):
    """Output for one sample, vertex by vertex in plain numbers."""
    values = [*x, 1.0] if dag.constant else list(x)
    for vertex in range(dag.num_inputs, len(dag.slopes)):
        z = sum(w[k] * values[s] for k, (s, t) in enumerate(dag.edges) if t == vertex)
        values.append(z if z > 0 else dag.slopes[vertex] * z)
    return values[-1]


def drawn(dag, seed):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    w = torch.randn(len(dag.edges), **options)
    return w, torch.randn(4, dag.num_features, **options)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(graphs(), st.integers(0, 2**31))
def test_a_net_is_a_tree_of_signs_over_its_paths(dag, seed):
    w, x = drawn(dag, seed)
    expected = np.array([by_hand(dag, w.tolist(), row.tolist()) for row in x])
    size = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(output_of(dag, w, x), expected, atol=1e-13 * size)
    for absolute in (False, True):
        tree = sign_tree(dag, w, absolute=absolute)
        assert set(tree.signs) <= {1, -1}
        found = tree(path_values(dag, w, x, absolute=absolute)) if tree.leaves else 0.0
        np.testing.assert_allclose(found, expected, atol=1e-12 * size)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(graphs(), st.integers(0, 2**31))
def test_the_gradient_by_paths_is_that_of_autograd(dag, seed):
    w, x = drawn(dag, seed)
    if not paths(dag):
        return
    jacobian = torch.autograd.functional.jacobian(lambda w: output_of(dag, w, x), w)
    torch.testing.assert_close(
        path_gradient(dag, w, x), jacobian, rtol=1e-11, atol=1e-11
    )


@settings(derandomize=True, deadline=None, max_examples=15)
@given(graphs(), st.integers(0, 2**31))
def test_the_tree_depends_on_the_signs_of_the_weights_only(dag, seed):
    w, x = drawn(dag, seed)
    factor = torch.rand(
        len(w), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    other = w * (0.5 + factor)
    assert sign_tree(dag, w) == sign_tree(dag, other)
    if paths(dag):
        found = sign_tree(dag, w)(path_values(dag, other, x))
        torch.testing.assert_close(
            found, output_of(dag, other, x), atol=1e-11, rtol=1e-11
        )


def test_path_values_are_multilinear():
    dag, w = dag_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    base = path_values(dag, w, x)
    doubled = w.clone()
    doubled[0] *= 2
    through = torch.tensor([0 in path for path in paths(dag)])
    torch.testing.assert_close(
        path_values(dag, doubled, x), torch.where(through, 2 * base, base)
    )


def test_absolute_values_with_the_signed_tree_are_not_the_net():
    dag = Dag(((0, 1), (1, 2)), (1.0, 0.0, 1.0), 1)
    w = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x = torch.tensor([[-1.0]], dtype=torch.float64)
    assert float(output_of(dag, w, x)) == 1.0
    assert float(sign_tree(dag, w)(path_values(dag, w, x))) == 1.0
    wrong = sign_tree(dag, w)(path_values(dag, w, x, absolute=True))
    assert float(wrong) == 0.0


def test_a_dense_net_as_a_graph_computes_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 3),
        nn.LeakyReLU(0.2),
        nn.Identity(),
        nn.Linear(3, 2, bias=False),
        nn.LeakyReLU(-1.0),
        nn.ReLU(),
        nn.Linear(2, 2),
        nn.ReLU(),
    ).double()
    x = torch.randn(50, 2, dtype=torch.float64)
    for output in range(2):
        dag, w = dag_of(model, output=output)
        torch.testing.assert_close(output_of(dag, w, x), model(x)[:, output].detach())
    # Through 2 hidden vertices of the second layer from 3 of the first, each with two
    # inputs and a bias; and the bias of the output.
    assert len(paths(dag)) == 2 * 3 * 3 + 2 * 0 + 1


def test_zero_weights_and_edges_from_the_constant_keep_the_lemma():
    dag, w = dag_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    w = w.clone()
    w[::2] = 0.0
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(1)).double()
    found = sign_tree(dag, w)(path_values(dag, w, x))
    torch.testing.assert_close(found, output_of(dag, w, x))


def test_what_is_no_small_graph_is_refused():
    with pytest.raises(DomainError, match="an edge goes up"):
        Dag(((1, 0),), (1.0, 1.0), 1)
    with pytest.raises(DomainError, match="an edge goes up"):
        Dag(((0, 1),), (1.0, 1.0, 1.0), 2)
    with pytest.raises(DomainError, match="a graph has an input"):
        Dag((), (1.0,), 1)
    wide = nn.Sequential(*[nn.Linear(10, 10) for _ in range(5)])
    with pytest.raises(DomainError, match="at most 20000 paths are listed, got 1"):
        paths(dag_of(wide)[0])
    with pytest.raises(ArgumentTypeError, match="got GELU"):
        dag_of(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)))
    with pytest.raises(DomainError, match="first layer"):
        dag_of(nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
    with pytest.raises(DomainError, match="one of those of the last Linear, got 1"):
        dag_of(nn.Sequential(nn.Linear(2, 1)), output=1)
    dag, w = dag_of(nn.Sequential(nn.Linear(2, 1)))
    with pytest.raises(ShapeError, match="has that many weights"):
        path_values(dag, w[:2], torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="inputs have shape"):
        output_of(dag, w, torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="reads"):
        sign_tree(dag, w)(torch.zeros(1, 2))
