"""Interval arithmetic with the weaker promise winning."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.linalg import Value

positive = st.floats(1e-100, 1e100)


def interval(data):
    a, b = sorted(data)
    return Value(a, a, b)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(x=st.tuples(positive, positive), y=st.tuples(positive, positive))
def test_products_and_quotients_enclose_the_exact_ones(x, y):
    a, b = interval(x), interval(y)
    product, quotient = a * b, a / b
    assert Fraction(product.lower) <= Fraction(a.lower) * Fraction(b.lower)
    assert Fraction(product.upper) >= Fraction(a.upper) * Fraction(b.upper)
    assert Fraction(quotient.lower) <= Fraction(a.lower) / Fraction(b.upper)
    assert Fraction(quotient.upper) >= Fraction(a.upper) / Fraction(b.lower)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(x=st.tuples(positive, positive))
def test_squares_enclose_the_exact_ones(x):
    a = interval(x)
    assert Fraction((a**2).lower) <= Fraction(a.lower) ** 2
    assert Fraction((a**2).upper) >= Fraction(a.upper) ** 2


def test_a_negative_power_is_the_reciprocal_with_its_ends_in_order():
    reciprocal = Value(2.0, 1.0, 4.0) ** -1
    assert reciprocal.lower <= 0.25 < reciprocal.value == 0.5 < 1.0 <= reciprocal.upper


def test_the_weaker_promise_wins_and_failure_probabilities_add():
    certified = Value(1.0, 0.9, 1.1, "certified")
    rounding = Value(1.0, 0.9, 1.1, "rounding")
    chance = Value(1.0, 0.9, 1.1, "probabilistic", 1e-9)
    assert (certified / rounding).error_kind == "rounding"
    assert (rounding / chance).error_kind == "probabilistic"
    assert (chance * chance).failure_probability == 2e-9
    # The same event squared is one event.
    assert (chance**2).failure_probability == 1e-9


def test_a_bad_status_survives_arithmetic():
    bad = Value.undefined("nonfinite", "NaN entries")
    result = Value.exact(2.0) / bad
    assert result.status == "nonfinite"
    assert result.reason == "NaN entries"
    assert math.isnan(result.value)


def test_a_value_prints_its_enclosure_and_its_promise():
    chance = Value(2.0, 1.5, 2.5, "probabilistic", 1e-9)
    assert str(chance) == (
        "2 in [1.5, 2.5] (probabilistic, fails with probability 1e-09)"
    )
    assert str(Value.undefined("degenerate", "the matrix is zero")) == (
        "nan (degenerate: the matrix is zero)"
    )


def test_clipping_keeps_nan_and_cuts_both_ends():
    assert math.isnan(Value.undefined("nonfinite", "x").clip(0.0, 1.0).value)
    clipped = Value(1.0, 0.5, 3.0).clip(1.0, 2.0)
    assert (clipped.lower, clipped.value, clipped.upper) == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(
    ("value", "width"),
    [
        (Value(2.0, 1.0, 3.0), 1.0),
        (Value.exact(0.0), 0.0),
        (Value(0.0, 0.0, 1.0), math.inf),
    ],
)
def test_the_relative_width_is_the_width_over_the_value(value, width):
    assert value.relative_width == width


def test_a_zero_divisor_gives_an_infinite_upper_end():
    quotient = Value.exact(1.0) / Value(1.0, 0.0, 2.0)
    assert quotient.upper == math.inf
    assert quotient.lower <= 0.5
