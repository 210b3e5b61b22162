"""Values and polar forms of laws against sums that are written out."""

import json

import numpy as np
import pytest
import torch

from spectrank.errors import DomainError, ShapeError, UnknownNameError
from spectrank.invariance.laws import (
    GramTerm,
    Law,
    Laws,
    LinearTerm,
    NoLaw,
    SquareTerm,
    evaluate,
    evaluate_all,
    polar,
    polar_all,
)
from spectrank.table import Table


def _law(form, terms, shape, name="a", count=1):
    return Law(name, "matrix", form, tuple(terms), shape, count, "always", "derived")


def _random(seed, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _vertex(m=3, n=2, k=4):
    """Row norms of w (m, n) and b (m,) minus column norms of v (k, m)."""
    every, one = np.arange(m), np.ones(m)
    return _law(
        "squares",
        [
            SquareTerm("w", (m, n), (0,), every, every, one),
            SquareTerm("b", (m,), (0,), every, every, one),
            SquareTerm("v", (k, m), (1,), every, every, -one),
        ],
        (m,),
        name="vertex",
    )


def _gap(m=3, n=2, k=4):
    return _law(
        "gram",
        [
            GramTerm("w", (m, n), (0,), None, 1.0),
            GramTerm("b", (m, 1), (0,), None, 1.0),
            GramTerm("v", (k, m), (1,), None, -1.0),
        ],
        (m, m),
        name="gap",
    )


SHAPES = {"w": (3, 2), "b": (3,), "v": (4, 3)}


def test_a_vertex_law_is_what_enters_minus_what_leaves():
    t = _random(0, **SHAPES)
    by_hand = [
        sum(float(x) ** 2 for x in t["w"][i])
        + float(t["b"][i]) ** 2
        - sum(float(x) ** 2 for x in t["v"][:, i])
        for i in range(3)
    ]
    assert evaluate(_vertex(), t).tolist() == pytest.approx(by_hand, rel=1e-14)


def test_a_gap_matrix_is_written_out_and_its_diagonal_is_the_vertex_law():
    t = _random(1, **SHAPES)
    value = evaluate(_gap(), t)
    for u in range(3):
        for v in range(3):
            by_hand = sum(float(t["w"][u, a] * t["w"][v, a]) for a in range(2))
            by_hand += float(t["b"][u] * t["b"][v])
            by_hand -= sum(float(t["v"][a, u] * t["v"][a, v]) for a in range(4))
            assert float(value[u, v]) == pytest.approx(by_hand, abs=1e-14)
    assert torch.allclose(value.diagonal(), evaluate(_vertex(), t), atol=1e-14)


@pytest.mark.parametrize("law", [_vertex(), _gap()])
def test_the_polar_form_is_that_of_polarisation_and_gives_one_step_exactly(law):
    w, g = _random(2, **SHAPES), _random(3, **SHAPES)
    minus = {name: w[name] - g[name] for name in w}
    plus = {name: w[name] + g[name] for name in w}
    b = polar(law, w, g)
    by_hand = (evaluate(law, plus) - evaluate(law, minus)) / 4
    assert torch.allclose(b, by_hand, atol=1e-13)
    assert torch.allclose(polar(law, g, w), b, atol=1e-14)
    assert torch.allclose(polar(law, w, w), evaluate(law, w), atol=1e-13)


def test_axes_are_kept_in_the_order_given_and_indices_are_flat_over_them():
    t = _random(4, k=(2, 3, 5))
    k = t["k"]
    # Axis 2 first: flat index 3 * place + channel.
    index = np.array([3 * 4 + 1, 3 * 0 + 2, 3 * 4 + 1])
    numbers, factors = np.array([0, 0, 1]), np.array([2.0, -1.0, 0.5])
    term = SquareTerm("k", (2, 3, 5), (2, 1), numbers, index, factors)
    value = evaluate(_law("squares", [term], (2,)), t)
    first, second = (k[:, 1, 4] ** 2).sum(), (k[:, 2, 0] ** 2).sum()
    assert value.tolist() == pytest.approx(
        [float(2 * first - second), float(first / 2)], rel=1e-14
    )
    gram = GramTerm("k", (2, 3, 5), (2, 1), np.array([13, 2]), 3.0, np.array([1]))
    matrix = evaluate(_law("gram", [gram], (2, 2)), t)
    rows = torch.stack([k[1, 1, 4], k[1, 2, 0]])
    assert torch.allclose(matrix, 3 * torch.outer(rows, rows), atol=1e-14)


def test_a_linear_law_sums_entries_and_its_polar_form_reads_the_second_argument():
    t, g = _random(5, w=(3, 2), b=(3,)), _random(6, w=(3, 2), b=(3,))
    zero = np.zeros(3, dtype=int)
    terms = [
        LinearTerm("w", (3, 2), (1,), np.arange(2), np.arange(2), np.ones(2)),
        LinearTerm("b", (3,), (0,), zero, np.arange(3), -np.ones(3)),
    ]
    law = _law("linear", terms, (2,))
    by_hand = [t["w"][:, 0].sum() - t["b"].sum(), t["w"][:, 1].sum()]
    assert torch.allclose(evaluate(law, t), torch.stack(by_hand), atol=1e-14)
    assert torch.allclose(polar(law, t, g), evaluate(law, g), atol=0)


def test_without_kept_axes_everything_is_summed():
    t = _random(12, w=(3, 2))
    square = SquareTerm("w", (3, 2), (), [0], [0], [2.0])
    linear = LinearTerm("w", (3, 2), (), [1], [0], [-1.0])
    total = evaluate(_law("squares", [square], (1,)), t)
    assert float(total) == pytest.approx(2 * float((t["w"] ** 2).sum()), rel=1e-14)
    found = evaluate(_law("linear", [linear], (2,)), t)
    assert found.tolist() == pytest.approx([0.0, -float(t["w"].sum())], rel=1e-14)


def test_evaluating_all_at_once_mixes_up_neither_forms_nor_views():
    square = SquareTerm("w", (3, 2), (0,), [0], [1], [1.0])
    linear = LinearTerm("w", (3, 2), (0,), [0], [1], [1.0])
    other = SquareTerm("w", (2, 3), (0,), [0], [1], [1.0])
    laws = [
        _law("squares", [square], (1,), "square"),
        _law("linear", [linear], (1,), "linear"),
        _law("squares", [other], (1,), "view"),
        _law("squares", [square], (1,), "again"),
    ]
    t, g = _random(7, w=(3, 2)), _random(8, w=(3, 2))
    w, v = t["w"], g["w"]
    values = evaluate_all(laws, t)
    expected = {
        "square": (w[1] ** 2).sum(),
        "linear": w[1].sum(),
        "view": (w.reshape(2, 3)[1] ** 2).sum(),
        "again": (w[1] ** 2).sum(),
    }
    assert {k: float(v) for k, v in values.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-14
    )
    polars = polar_all(laws, t, g)
    assert float(polars["square"]) == pytest.approx(float(w[1] @ v[1]), rel=1e-13)
    assert float(polars["linear"]) == pytest.approx(float(v[1].sum()), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_formed_in_float64_whatever_the_parameters_are(dtype):
    generator = torch.Generator().manual_seed(9)
    t = {
        name: torch.randn(shape, generator=generator).to(dtype)
        for name, shape in {"w": (3, 4000), "b": (3,), "v": (4, 3)}.items()
    }
    exact = {name: x.to(torch.float64) for name, x in t.items()}
    by_hand = (exact["w"] ** 2).sum(1) + exact["b"] ** 2 - (exact["v"] ** 2).sum(0)
    value = evaluate(_vertex(n=4000), t)
    assert value.dtype == torch.float64
    assert torch.allclose(value, by_hand, rtol=1e-13, atol=0)
    assert torch.allclose(polar(_vertex(n=4000), t, t), by_hand, rtol=1e-13, atol=0)
    assert torch.allclose(
        evaluate(_gap(n=4000), t).diagonal(), by_hand, rtol=1e-12, atol=0
    )


def test_parameters_with_gradients_are_read_without_a_graph():
    t = {name: x.requires_grad_() for name, x in _random(10, **SHAPES).items()}
    assert not evaluate(_vertex(), t).requires_grad
    assert not polar(_gap(), t, t).requires_grad
    assert all(x.grad is None for x in t.values())


def test_laws_survive_json_and_files_with_equal_values(tmp_path):
    laws = Laws((_vertex(), _gap()), (NoLaw("fc", "GELU is not homogeneous"),))
    t = _random(11, **SHAPES)
    table = laws.table()
    table.write(tmp_path / "laws.json")
    for again in (
        Laws.from_dict(json.loads(json.dumps(laws.as_dict()))),
        Laws.from_table(Table.read(tmp_path / "laws.json")),
    ):
        assert again.skipped == laws.skipped
        for law, other in zip(laws, again, strict=True):
            assert torch.equal(evaluate(law, t), evaluate(other, t))
            assert (law.kind, law.count, law.exact) == (
                other.kind,
                other.count,
                other.exact,
            )


def test_rows_name_what_enters_and_what_leaves():
    laws = Laws((_vertex(), _gap()), (NoLaw("fc", "GELU", "vertex"),))
    vertex, gap, skip = laws.table()
    assert vertex["params_in"] == ["w", "b"]
    assert vertex["params_out"] == ["v"]
    assert vertex["axis_out"] == ["4x3:1"]
    assert (vertex["num_laws"], gap["num_laws"]) == (3, 6)
    assert (skip["kind"], skip["metric"], skip["reason"]) == ("skip", "vertex", "GELU")


def test_rows_and_text_tell_parts_of_a_parameter_apart():
    rows = (np.array([2, 3]), np.array([5, 4]), np.array([0, 3]))
    q, k, some = (GramTerm("qkv", (6, 2), (0,), own, 1.0) for own in rows)
    minus = GramTerm("qkv", (6, 2), (0,), rows[1], -1.0)
    laws = Laws((_law("gram", [q, minus], (2, 2)),))
    (row,) = laws.table()
    assert (row["axis_in"], row["axis_out"]) == (["6x2:0[2:4]"], ["6x2:0[4:6]"])
    assert "qkv[2:4]; minus qkv[4:6]" in str(laws)
    (row,) = Laws((_law("gram", [some, k], (2, 2)),)).table()
    assert row["axis_in"] == ["6x2:0[2 of 6]", "6x2:0[4:6]"]
    # Of a diagonal law the entries of each sign by themselves.
    square = SquareTerm("w", (3, 2), (0,), [0, 0], [1, 2], [1.0, -1.0])
    (row,) = Laws((_law("squares", [square], (1,)),)).table()
    assert (row["axis_in"], row["axis_out"]) == (["3x2:0[1:2]"], ["3x2:0[2:3]"])


def test_laws_are_found_by_name_kind_and_parameter():
    laws = Laws((_vertex(), _gap()))
    assert laws["gap"] is laws[1]
    assert [law.name for law in laws.of("b")] == ["vertex", "gap"]
    assert list(laws.select("vertex")) == []
    assert laws.num_laws == 2
    with pytest.raises(UnknownNameError, match="asked for by its name"):
        laws["fc"]
    with pytest.raises(DomainError, match="told apart"):
        Laws((_gap(), _gap()))


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(DomainError, match=r"indices of a term lie in \[0, 3\)"):
        SquareTerm("w", (3, 2), (0,), [0], [3], [1.0])
    with pytest.raises(DomainError, match="distinct"):
        GramTerm("w", (3, 2), (0, 0), None, 1.0)
    with pytest.raises(ShapeError, match="one length"):
        SquareTerm("w", (3, 2), (0,), [0], [1, 2], [1.0])
    with pytest.raises(ShapeError, match="fit its shape"):
        _law("gram", [GramTerm("w", (3, 2), (0,), None, 1.0)], (2, 2))
    with pytest.raises(ShapeError, match="law number 2"):
        _law("squares", [SquareTerm("w", (3, 2), (0,), [2], [1], [1.0])], (2,))
    with pytest.raises(DomainError, match="one law per form"):
        _law("gram", [SquareTerm("w", (3, 2), (0,), [0], [1], [1.0])], (2, 2))
    with pytest.raises(UnknownNameError, match="'b' is absent"):
        evaluate(_vertex(), _random(0, w=(3, 2)))
    with pytest.raises(ShapeError, match=r"shape \(5, 2\)"):
        evaluate(_vertex(), _random(0, w=(5, 2)))


def test_sparse_gradients_are_read_like_dense_ones():
    t, dense = _random(13, **SHAPES), _random(14, **SHAPES)
    dense["w"][1] = 0.0
    sparse = {**dense, "w": dense["w"].to_sparse()}
    for law in (_vertex(), _gap()):
        assert torch.equal(polar(law, t, sparse), polar(law, t, dense))
        assert torch.equal(evaluate(law, sparse), evaluate(law, dense))
