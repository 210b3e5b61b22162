"""Numbers as the pages print them: digits, intervals, levels."""

import math
from decimal import Decimal

import pytest

from spectrank.report._numbers import interval_texts, level_text, plain_text

MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"


def _value(text):
    text = text.replace(MINUS, "-")
    mantissa, _, exponent = text.partition(f"{TIMES}10")
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    return Decimal(mantissa).scaleb(int(exponent.translate(digits) or 0))


@pytest.mark.parametrize(
    "scale", [1e-300, 1e-9, 1e-3, 0.7, 1.0, 41.0, 1e5, 1e17, 1e300]
)
@pytest.mark.parametrize("width", [3e-14, 1e-6, 0.01, 0.3, 2.0, 70.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_printed_interval_contains_the_computed_one_and_is_no_tenth_wider(
    scale, width, sign
):
    value = sign * 1.2345678 * scale
    lower, upper = value - 0.9 * width * scale, value + width * scale
    shown, interval = interval_texts(value, lower, upper)
    low, high = (_value(text) for text in interval[1:-1].split(", "))
    half = Decimal(upper) - Decimal(value)
    assert low <= Decimal(repr(lower))
    assert Decimal(repr(upper)) <= high
    assert Decimal(lower) - low <= half / 10
    assert high - Decimal(upper) <= half / 10
    assert abs(_value(shown) - Decimal(value)) <= half / 20
    places = {
        len(text.partition(TIMES)[0].partition(".")[2])
        for text in (shown, *interval[1:-1].split(", "))
    }
    assert len(places) == 1


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ((2.0, None, None), ("2", None)),
        ((2.0, 2.0, 2.0), ("2", "[2, 2]")),
        ((5.0, 4.0, math.inf), ("5.0", "[4.0, ∞)")),
        ((5.0, -math.inf, 6.0), ("5.0", f"({MINUS}∞, 6.0]")),
        ((5.0, None, 6.0), ("5.0", f"({DASH}, 6.0]")),
        ((math.nan, 1.0, 2.0), ("NaN", "[1, 2]")),
        ((math.inf, None, None), ("∞", None)),
        ((None, None, None), (DASH, None)),
        ((-0.0004, -0.01, 0.02), ("0.000", f"[{MINUS}0.010, 0.020]")),
    ],
)
def test_an_open_unknown_or_empty_interval_is_shown_as_such(given, shown):
    assert interval_texts(*given) == shown


def test_a_stated_number_has_no_digits_that_it_does_not_need():
    given = [1.0, 0.05, -0.0, 123456.0, -2.5e-7, 1.23456789, 3e300, math.nan]
    small, large = f"{MINUS}2.5{TIMES}10⁻⁷", f"3{TIMES}10³⁰⁰"
    shown = ["1", "0.05", "0", "123456", small, "1.235", large, "NaN"]
    assert [plain_text(value) for value in given] == shown


@pytest.mark.parametrize(
    ("chance", "text"),
    [(0.05, "95 %"), (1 - 0.99, "99 %"), (0.001, "99.9 %"), (0.0, "100 %")],
)
def test_a_level_is_one_minus_the_failure_probability(chance, text):
    assert level_text(chance) == text


@pytest.mark.parametrize("chance", [None, math.nan, -0.1, 1.5])
def test_a_level_that_is_none_is_not_invented(chance):
    assert level_text(chance) == "level not stated"
