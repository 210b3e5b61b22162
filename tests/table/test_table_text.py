"""Numbers, names and headers as short text."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from spectrank.table._text import (
    enclosure_text,
    name_width,
    number_text,
    printable,
    shortened,
    stacked,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30.5, "30.50"),
        (1.0, "1.000"),
        (1234.4, "1234"),
        (12345.0, "1.234e4"),
        (99999.0, "1.000e5"),
        (0.00012345, "0.0001234"),
        (1.2345e-200, "1.234e-200"),
        (-5.0, "-5.000"),
        (0.0, "0"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_has_four_significant_digits(value, text):
    assert number_text(value) == text


def test_a_number_of_a_whole_column_has_no_decimals():
    assert number_text(384.0, whole=True) == "384"
    assert number_text(math.nan, whole=True) == "nan"


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (99.95, 100.05, ""),
        (99.9, 100.1, " ±0.1"),
        (90.0, 101.0, " ±10"),
        (99.0, 123.4, " ±23"),
        (None, 200.0, ""),
        (99.0, None, ""),
        (math.nan, 200.0, ""),
        (99.0, math.inf, " ±inf"),
    ],
)
def test_only_an_enclosure_wider_than_a_thousandth_is_shown(lower, upper, text):
    assert enclosure_text(100.0, lower, upper) == text


def test_an_enclosure_of_zero_is_wide_whatever_its_width():
    assert enclosure_text(0.0, 0.0, 1e-300) == " ±1e-300"
    assert enclosure_text(math.nan, 0.0, 1.0) == ""


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (45, "encoder.layer.11.attention.self.query.weight"),
        (37, "…layer.11.attention.self.query.weight"),
        (28, "…layer.11…self.query.weight"),
        (22, "…11…self.query.weight"),
        (12, "…11…weight"),
        (7, "…weight"),
        (3, "…ht"),
        (1, "…"),
    ],
)
def test_a_shortened_name_keeps_its_tail_and_its_layer_number(width, text):
    assert shortened("encoder.layer.11.attention.self.query.weight", width) == text


@given(st.text(st.sampled_from("ab.1重"), max_size=25), st.integers(1, 20))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_shortened_name_fits_and_is_the_name_where_that_fits(name, width):
    short = shortened(name, width)
    assert cell_len(short) <= width
    assert (short == name) == (cell_len(name) <= width)


def test_names_get_the_smallest_width_that_tells_them_apart():
    names = ["a.0.query.weight", "a.0.key.weight"]
    width = name_width(names, 5, 30)
    assert len({shortened(name, width) for name in names}) == 2
    assert len({shortened(name, width - 1) for name in names}) == 1
    assert name_width(["same", "same but more"], 2, 3) == 3


def test_headers_break_at_underscores_and_brackets_only():
    assert stacked("relative_distance_to_rank[k=3]", 8) == (
        "relative\ndistance\nto rank\n[k=3]"
    )
    assert stacked("stable_rank", 11) == "stable rank"
    assert stacked("participation_ratio", 1) == "participation\nratio"


def test_control_characters_are_escaped():
    assert printable("a\x1b[31m\n\u202eé重") == r"a\x1b[31m\n\u202eé重"
