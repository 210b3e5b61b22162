"""Graphs written out, trees that err, and each claim on trees and counts."""

import numpy as np
import pytest
import torch

from spectrank.experiments.le2022training.conservation import counts, decomposition
from spectrank.experiments.le2022training.conservation.counts import CountsSize
from spectrank.experiments.le2022training.conservation.decomposition import (
    DecompositionSize,
)
from spectrank.invariance import Dag


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_hidden_vertices_of_a_drawn_graph_lie_on_a_path():
    seen = set()
    for seed in range(20):
        dag = decomposition.random_dag(4, generator(seed))
        n = len(dag.slopes)
        assert (dag.num_inputs, n, dag.constant) == (4, 9, True)
        for vertex in range(4, 8):
            assert any(target == vertex for _, target in dag.edges)
            assert (vertex, n - 1) in dag.edges
        assert len(set(dag.edges)) == len(dag.edges)
        seen |= set(dag.slopes)
    assert seen == {0.0, 0.2, 1.0}


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_errors_of_one_unit_are_those_of_its_kink(slope):
    """f = w2 s(w1 . x): the false trees err unless the unit is linear."""
    dag = Dag(
        ((0, 4), (1, 4), (2, 4), (3, 4), (4, 5)),
        (1.0, 1.0, 1.0, 1.0, slope, 1.0),
        4,
        constant=True,
    )
    found = np.array([decomposition.errors(dag, generator(s)) for s in range(8)])
    exact = [
        decomposition.SIGNED,
        decomposition.ABSOLUTE,
        decomposition.GRADIENT,
        decomposition.KEPT,
    ]
    assert found[:, exact].max() < 1e-13
    flipped = found[:, decomposition.FLIPPED]
    assert (flipped > 1e-3).all() if slope == 0.0 else (flipped < 1e-13).all()
    # The tree of absolute values turns every path by the sign of its first weight.
    assert (found[:, decomposition.MIXED] > 0.05).any()


@pytest.mark.parametrize(
    ("broken", "quantity"),
    [
        ("output_of", decomposition.SIGNED),
        ("path_gradient", decomposition.GRADIENT),
    ],
)
def test_an_error_of_one_in_a_hundred_is_seen(broken, quantity, monkeypatch):
    true = getattr(decomposition, broken)
    dag = decomposition.random_dag(3, generator(5))
    assert decomposition.errors(dag, generator(1))[quantity] < 1e-13
    monkeypatch.setattr(decomposition, broken, lambda *args: 1.01 * true(*args))
    assert decomposition.errors(dag, generator(1))[quantity] > 1e-3


def test_a_short_run_has_small_errors_where_it_should():
    found = decomposition.measure(DecompositionSize(2, 3, 3), 7, lambda: None)
    assert found.shape == (2, 3, 6)
    assert found[..., : decomposition.KEPT + 1].max() < 1e-12
    assert found[..., decomposition.MIXED].max() > 1e-2


def failing(asked, y):
    rows = [question.rows(y, 0)[0] for question in asked]
    return {
        row["subject"].split(".")[-1] for row in rows if row["verdict"] != "reproduced"
    }


def test_each_claim_on_trees_fails_where_its_number_does():
    asked = decomposition.questions(DecompositionSize(5, 4))
    y = np.full((5, 4, 6), 1e-15)
    y[..., decomposition.MIXED :] = 0.5
    y *= 1.0 + 0.1 * np.arange(5)[:, None, None]
    assert failing(asked, y) == set()
    names = [question.claim.key.split(".")[-1] for question in asked]
    order = [
        decomposition.SIGNED,
        decomposition.ABSOLUTE,
        decomposition.KEPT,
        decomposition.GRADIENT,
        decomposition.MIXED,
        decomposition.FLIPPED,
    ]
    for name, quantity in zip(names, order, strict=True):
        spoiled = y.copy()
        if quantity < decomposition.MIXED:
            spoiled[:, 2, quantity] = 0.5
        else:
            spoiled[:, :, quantity] = 1e-15
        assert failing(asked, spoiled) == {name}


def test_dense_networks_have_the_layers_that_their_name_says():
    nets = {net.name: net for net in counts.networks()}
    for name, widths in (
        ("linear-1-2-2-1", (1, 2, 2, 1)),
        ("leaky-relu", (2, 2, 2, 1)),
    ):
        model = nets[name].build()
        linear = [m for m in model if isinstance(m, torch.nn.Linear)]
        assert [m.in_features for m in linear] == list(widths[:-1])
        assert linear[-1].out_features == widths[-1]
        assert all(m.bias is None for m in linear)
    acts = [m for m in nets["leaky-relu"].build() if isinstance(m, torch.nn.LeakyReLU)]
    assert len(acts) == 2
    # Two layers of inner width r with rank rk: rk (2r + 1 - rk) / 2.
    for name, (n, r, m) in (("linear-2-2-2", (2, 2, 2)), ("linear-1-3-1", (1, 3, 1))):
        rk = min(r, n + m)
        assert nets[name].num_laws == rk * (2 * r + 1 - rk) / 2


def test_attention_is_that_of_torch():
    net = counts.Attention(2).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator(2))
    q, k, v = (net.get_submodule(n)(x) for n in ("query", "key", "value"))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(net(x), net.get_submodule("out")(expected))


def test_counts_of_a_small_network(monkeypatch):
    few = [n for n in counts.networks() if n.name == "linear-1-3-1"]
    monkeypatch.setattr(counts, "networks", lambda: few)
    found = counts.measure(CountsSize(2), 3, lambda: None)
    assert found.tolist() == [[[5.0, 5.0]]] * 2


def test_each_claim_on_counts_fails_where_its_number_does():
    asked, nets = counts.questions(CountsSize(3)), counts.networks()
    y = np.empty((3, len(nets), 2))
    for n, net in enumerate(nets):
        y[:, n] = net.num_laws, net.num_laws - net.num_unknown
    assert failing(asked, y) == set()
    for n, net in enumerate(nets):
        for quantity, suffix in ((counts.ALL, ""), (counts.KNOWN, "-found")):
            spoiled = y.copy()
            spoiled[:, n, quantity] += 1.0
            assert failing(asked, spoiled) == {net.name + suffix}
