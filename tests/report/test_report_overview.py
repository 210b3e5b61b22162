"""The overview: titles, what needs attention, the lowest ranks, the settings."""

import pytest

from spectrank.report import render_html
from spectrank.report._facts import facts
from spectrank.report._names import labels
from spectrank.report._overview import default_title, overview

pytestmark = pytest.mark.usefixtures("small_library")


def _troubled(matrix, num, reason="there is no bulk"):
    bad = {"value": None, "status": "degenerate", "reason": reason}
    return [row | bad for k in range(num) for row in matrix(f"h.{k}.w", [1.0])[:1]]


@pytest.mark.parametrize("num", [2, 3, 4, 40])
def test_one_reason_of_many_matrices_is_said_once(num, matrix, table, read_page):
    rows = [*_troubled(matrix, num), *_troubled(matrix, 1, "another reason")]
    elements, words = read_page(render_html(table(rows)))
    assert "Needs attention 2" in words
    assert words.count("there is no bulk") == 1
    # Each is linked, in a list that is folded where it is long.
    assert sum("h.1.w" in str(more.get("href")) for _, more in elements) == 1
    assert (f"{num} matrices h.0.w" in words) == (num > 3)


def test_what_to_beware_of_stands_with_what_to_trust_and_is_no_trouble(
    matrix, table, read_page
):
    doubtful = {"metric": "alpha", "reason": "an exponential tail fits as well"}
    rows = [row | doubtful for k in range(5) for row in matrix(f"h.{k}.w", [1.0])[:1]]
    _, words = read_page(render_html(table([*rows, *matrix("plain", [2.0])])))
    assert "Needs attention" not in words
    assert words.count("an exponential tail fits as well") == 1
    assert "To beware of an exponential tail fits as well · alpha 5 matrices" in words


def test_long_lists_of_metrics_are_counted_and_one_more_is_named(matrix, table):
    bad = {"kind": "measurement", "status": "skipped", "reason": "no", "subject": "w"}
    for num, text in (
        (3, "a0, a1, a2"),
        (4, "a0, a1, a2, a3"),
        (5, "a0, a1, a2, 2 more metrics"),
    ):
        frame = table([bad | {"metric": f"a{k}"} for k in range(num)]).frame
        (trouble,) = overview(frame, frame.to_dicts(), {})["troubles"]
        assert trouble["what"] == text


def test_the_lowest_ranks_are_no_other_tools_numbers(matrix, table):
    rows = matrix("w", [2.0, 1.0], m=8, n=4)
    theirs = rows[0] | {"variant": "weightwatcher", "value": 0.01}
    frame = table([theirs, *rows]).frame
    (lowest,) = overview(frame, frame.to_dicts(), {})["lowest"]
    assert lowest["value"] == "1.250"


def test_titles_say_what_a_table_without_an_input_holds():
    sources = [{"input": f"runs/small/step-{k}.pt"} for k in (0, 10)]
    run = {"trend": [0, 10], "sources": sources}
    assert default_title(run, measured=True) == "small over the steps"
    sources.append({"input": "elsewhere/step-20.pt"})
    assert default_title(run, measured=True) == "Checkpoints over the steps"
    assert default_title({"trend": [0, 10]}, measured=True).startswith("Checkpoints")
    assert default_title({}, measured=False, laws=True) == "Laws of training"
    assert default_title({}, measured=True, laws=True) == "Scan of weight matrices"
    assert default_title({"model": "M"}, measured=False, laws=True) == "M"


def test_settings_are_words_and_nothing_is_said_twice():
    told = {"seed": 3, "settings": {"seed": 3, "num_null": 5, "select": None}}
    assert facts(told) == [("Seed", "3"), ("Num null", "5"), ("Select", "all")]
    # What differs from the rest of the provenance has no other place.
    assert facts({"settings": {"seed": 4}}) == [("Seed", "4")]


def test_layers_that_have_numbers_alone_share_a_role_of_that_name():
    short, roles = labels(["0.weight", "2.weight", "head.weight"])
    assert short == ["0", "2", "head"]
    assert roles == ["numbered layers", "numbered layers", "head"]
