"""Gates fail what they should, and what could not be measured too."""

import math

import pytest
import torch

import spectrank as sr
from spectrank.errors import DomainError, UnknownNameError
from spectrank.scanning import Gate


@pytest.fixture
def table():
    nan = torch.full((3, 3), math.nan)
    return sr.scan(
        {
            "one.weight": torch.outer(torch.ones(4), torch.ones(3)),
            "eye.weight": torch.eye(4),
            "nan.weight": nan,
        },
        metrics="stable_rank,energy_rank:q=0.5,energy_rank:q=0.9",
    )


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("stable_rank<2", ["one.weight", "nan.weight"]),
        ("stable_rank <= 4", ["one.weight", "eye.weight", "nan.weight"]),
        ("stable_rank>3.5", ["eye.weight", "nan.weight"]),
        ("stable_rank>=5", ["nan.weight"]),
        ("energy_rank[q=0.9]<4", ["one.weight", "nan.weight"]),
        ("energy_rank[q=0.5]<2.5", ["one.weight", "eye.weight", "nan.weight"]),
    ],
)
def test_a_gate_names_the_matrices_that_fail(table, text, failed):
    lines = Gate.parse(text).failures(table)
    assert [line.split(":")[0] for line in lines] == failed


def test_a_gate_without_a_variant_looks_at_all_of_them(table):
    lines = Gate.parse("energy_rank<2.5").failures(table)
    assert sum(line.startswith("eye.weight") for line in lines) == 1


@pytest.mark.parametrize("text", ["stable_rank", "stable_rank<x", "<2", "a=2", ""])
def test_text_that_is_no_gate_is_refused(text):
    with pytest.raises(DomainError, match="a gate reads METRIC<NUMBER"):
        Gate.parse(text)


def test_a_gate_on_what_was_not_measured_is_refused(table):
    with pytest.raises(UnknownNameError, match="did you mean"):
        Gate.parse("stable_rnk<2")
    with pytest.raises(UnknownNameError, match="has none; add it"):
        Gate.parse("nuclear_norm<2").failures(table)
    with pytest.raises(UnknownNameError, match="none; add it"):
        Gate.parse("energy_rank[q=0.1]<2").failures(table)
