"""Laws of centred parameters and of sums of features against sums written out."""

import json

import numpy as np
import pytest
import torch

from spectrank.errors import DomainError, ShapeError
from spectrank.invariance.laws import (
    GramTerm,
    Law,
    Laws,
    LinearTerm,
    Offset,
    SquareTerm,
    evaluate,
    evaluate_all,
    polar,
)


def _law(form, terms, shape, *offsets, name="a"):
    return Law(name, "vertex", form, terms, shape, 1, "", "derived", offsets=offsets)


def _random(seed, **shapes):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


SHAPES = {"w": (3, 2), "b": (3,), "g": (3,)}
MEAN = Offset("b", [0, 2], [0.5, -2.0])


def _centred():
    """|w_j|^2 + (b_j - m_j)^2 - g_j^2, m = (0.5, 0, -2)."""
    every, one = np.arange(3), np.ones(3)
    terms = (
        SquareTerm("w", (3, 2), (0,), every, every, one),
        SquareTerm("b", (3,), (0,), every, every, one),
        SquareTerm("g", (3,), (0,), every, every, -one),
    )
    return _law("squares", terms, (3,), MEAN)


def _beside():
    """(W + I)(W + I)^T for a square W of two features."""
    identity = Offset("w", [0, 3], [-1.0, -1.0])
    return _law("gram", (GramTerm("w", (2, 2), (0,), None, 1.0),), (2, 2), identity)


def test_offsets_are_taken_off_before_squares():
    t = _random(0, **SHAPES)
    m = [0.5, 0.0, -2.0]
    by_hand = [
        sum(float(x) ** 2 for x in t["w"][j])
        + (float(t["b"][j]) - m[j]) ** 2
        - float(t["g"][j]) ** 2
        for j in range(3)
    ]
    assert evaluate(_centred(), t).tolist() == pytest.approx(by_hand, rel=1e-14)
    w = _random(1, w=(2, 2))
    moved = w["w"] + torch.eye(2)
    assert torch.allclose(evaluate(_beside(), w), moved @ moved.T, atol=1e-14)


@pytest.mark.parametrize("law", [_centred(), _beside()])
def test_one_step_is_exact_with_the_law_of_displacements(law):
    shapes = SHAPES if law.form == "squares" else {"w": (2, 2)}
    w, g = _random(2, **shapes), _random(3, **shapes)
    before = {name: x.clone() for name, x in w.items()}
    after = {name: w[name] - 0.3 * g[name] for name in w}
    predicted = evaluate(law, w) - 0.6 * polar(law, w, g)
    predicted += 0.09 * evaluate(law.homogeneous, g)
    assert torch.allclose(evaluate(law, after), predicted, atol=1e-13)
    # The offset is no part of a displacement, and nothing is changed in place.
    assert not torch.allclose(evaluate(law, g), evaluate(law.homogeneous, g))
    assert all(torch.equal(w[name], before[name]) for name in w)


def test_sums_shared_by_several_laws_are_not_mixed_up_with_centred_ones():
    t = _random(4, **SHAPES)
    every = np.arange(3)
    term = SquareTerm("b", (3,), (0,), every, every, np.ones(3))
    plain = _law("squares", (term,), (3,), name="plain")
    moved = _law("squares", (term,), (3,), MEAN, name="moved")
    found = evaluate_all([plain, moved, plain.homogeneous], t)
    assert torch.allclose(found["plain"], t["b"] ** 2, atol=1e-15)
    m = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)
    assert torch.allclose(found["moved"], (t["b"] - m) ** 2, atol=1e-15)


def test_summed_features_make_one_row():
    t, g = _random(5, w=(3, 4)), _random(6, w=(3, 4))
    rows = np.array([2, 0])
    term = GramTerm("w", (3, 4), (0,), rows, 2.0, np.array([1, 3]), summed=True)
    law = _law("gram", (term,), (1, 1))
    sums = [float(t["w"][0, k] + t["w"][2, k]) for k in (1, 3)]
    others = [float(g["w"][0, k] + g["w"][2, k]) for k in (1, 3)]
    value = 2 * sum(s**2 for s in sums)
    cross = 2 * sum(s * o for s, o in zip(sums, others, strict=True))
    assert float(evaluate(law, t)) == pytest.approx(value, rel=1e-14)
    assert float(polar(law, t, g)) == pytest.approx(cross, rel=1e-13)


def test_offsets_and_sums_survive_json():
    term = GramTerm("w", (3, 4), (0,), None, 2.0, summed=True)
    laws = Laws((_centred(), _law("gram", (term,), (1, 1), name="b")))
    again = Laws.from_dict(json.loads(json.dumps(laws.as_dict())))
    t = _random(7, **SHAPES)
    assert torch.equal(evaluate(again[0], t), evaluate(laws[0], t))
    t = _random(8, w=(3, 4))
    assert torch.equal(evaluate(again[1], t), evaluate(laws[1], t))
    # What was stored before laws had offsets is read as without any.
    old = laws.as_dict()
    for item in old["laws"]:
        del item["offsets"]
    assert Laws.from_dict(old)[0].offsets == ()


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ShapeError, match="one value per entry"):
        Offset("b", [0, 1], [1.0])
    with pytest.raises(DomainError, match="distinct"):
        Offset("b", [1, 1], [1.0, 2.0])
    with pytest.raises(DomainError, match="finite"):
        Offset("b", [1], [float("nan")])
    every = np.arange(3)
    linear = LinearTerm("b", (3,), (0,), every, every, np.ones(3))
    with pytest.raises(DomainError, match="quadratic law"):
        _law("linear", (linear,), (3,), MEAN)
    # Of a part of a law without the centred parameter nothing is taken off.
    assert _law("gram", _beside().terms, (2, 2), MEAN).offsets == ()
    short = {"w": torch.zeros(3, 2), "b": torch.zeros(2), "g": torch.zeros(3)}
    with pytest.raises(ShapeError, match="tensor of 2 entries"):
        evaluate(_centred(), short)
