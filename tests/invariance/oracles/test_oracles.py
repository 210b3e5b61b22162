"""The oracles: known counts, known laws, and plausible laws that are false."""

import numpy as np
import pytest
from invariance_oracles import ZOO, Layout, brute_force, compare, law_vectors, rates

from spectrank.invariance.laws import GramTerm, Law, LinearTerm, SquareTerm

MLP = ZOO["mlp relu"]
LINEAR = ZOO["mlp linear"]


def squares(name, *terms):
    return Law(name, "vertex", "squares", terms, (3,), 3, "", "derived: by hand")


def norms(parameter, view, axis, sign):
    every = np.arange(3)
    return SquareTerm(parameter, view, (axis,), every, every, sign * np.ones(3))


IN = norms("0.weight", (3, 2), 0, 1.0)
BIAS = norms("0.bias", (3,), 0, 1.0)
OUT = norms("2.weight", (2, 3), 1, -1.0)
GRAM = (
    GramTerm("0.weight", (3, 2), (0,), None, 1.0),
    GramTerm("0.bias", (3,), (0,), None, 1.0),
    GramTerm("2.weight", (2, 3), (1,), None, -1.0),
)


def gram(terms):
    return Law("matrix", "matrix", "gram", terms, (3, 3), 6, "", "derived: by hand")


def test_the_rate_test_passes_true_laws_and_fails_plausible_ones():
    laws = [
        squares("true", IN, BIAS, OUT),
        squares("without bias", IN, OUT),
        squares("wrong sign", IN, BIAS, norms("2.weight", (2, 3), 1, 1.0)),
        gram(GRAM),
    ]
    found = rates(laws, MLP)
    assert found["true"] < 1e-14
    # Off the diagonal the matrix law is false for ReLU, true for linear units.
    for name in ("without bias", "wrong sign", "matrix"):
        assert found[name] > 1e-2
    assert rates([gram(GRAM)], LINEAR)["matrix"] < 1e-14
    assert rates([gram(GRAM[:1] + GRAM[2:])], LINEAR)["matrix"] > 1e-2


def test_softmax_sums_are_laws_only_of_losses_of_differences():
    head = LinearTerm("4.weight", (2, 2), (1,), np.arange(2), np.arange(2), np.ones(2))
    law = Law("sums", "softmax", "linear", (head,), (2,), 2, "", "derived: by hand")
    assert rates([law], ZOO["mlp relu softmax"])["sums"] < 1e-14
    assert rates([law], MLP)["sums"] > 1e-2


def test_terms_are_read_entry_by_entry():
    layout = Layout(MLP.module())
    w = np.random.default_rng(0).normal(size=layout.total)
    monomials = np.concatenate([np.outer(w, w)[layout.upper], w])
    found = law_vectors(gram(GRAM), layout) @ monomials
    W, b = w[:6].reshape(3, 2), w[6:9]
    V = w[9:15].reshape(2, 3)
    expected = W @ W.T + np.outer(b, b) - V.T @ V
    np.testing.assert_allclose(found, expected[np.triu_indices(3)], rtol=1e-13)
    rows = law_vectors(squares("vertex", IN, BIAS, OUT), layout) @ monomials
    np.testing.assert_allclose(rows, np.diag(expected), rtol=1e-13)


def test_the_comparison_names_what_is_missing_and_what_is_false():
    found = compare(MLP, [squares("first layer", IN, BIAS, OUT)])
    assert not found.wrong
    assert (found.brute, found.claimed) == (5, 3)
    assert len(found.missing) == 2
    assert not found.right
    # Both are laws of the second layer, up to multiples of the claimed ones.
    assert all("4.weight" in text for text in found.missing)
    found = compare(MLP, [squares("no bias", IN, OUT)])
    assert list(found.wrong) == ["no bias"]


@pytest.mark.parametrize(
    "name",
    ["mlp prelu", "mlp linear wide", "swiglu", "cnn linear groups", "dense layernorm"],
)
def test_brute_force_finds_the_counts_of_the_theory(name):
    case = ZOO[name]
    space = brute_force(case)
    assert space.count == case.expected
    assert case.linear is None or space.num_linear == case.linear
    # The gap is wide: no threshold decides.
    assert space.largest_null < 1e-14
    assert space.smallest_other > 1e-5
