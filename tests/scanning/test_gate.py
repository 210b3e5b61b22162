"""Gates fail what they should, and what could not be measured too."""

import math

import polars as pl
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


def test_a_variant_is_read_as_a_user_types_it():
    table = sr.scan({"w.weight": torch.eye(4)}, metrics="numerical_rank")
    assert len(Gate.parse("numerical_rank[rtol=1e-3]<5").failures(table)) == 1
    assert Gate.parse("effective_rank[squared]<2").request.variant == "squared"


def test_a_matrix_that_could_not_be_read_fails_every_gate():
    table = sr.scan({"w.weight": torch.eye(4), "w.bias": torch.ones(4)})
    row = {"kind": "skip", "subject": "x.weight", "metric": "scan", "m": 3, "n": 3}
    unread = sr.Table.from_rows(
        [{**row, "reason": "could not be read: bad bytes"}],
        columns={"m": pl.Int64, "n": pl.Int64},
    )
    both = sr.Table.concat([table, unread])
    (line,) = Gate.parse("stable_rank<2").failures(both)
    assert line == "x.weight: could not be read: bad bytes"


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
    with pytest.raises(UnknownNameError, match="has none; add it"):
        Gate.parse("energy_rank[q=0.1]<2").failures(table)


def test_a_gate_means_our_metric_unless_it_names_the_other_tool():
    # Its spectral_norm is a square: 4 where ours is 2.
    table = sr.scan(
        {"w.weight": torch.diag(torch.tensor([2.0] + [1.0] * 29))},
        metrics="spectral_norm",
        compat="weightwatcher",
        null="permuted",
    )
    assert Gate.parse("spectral_norm>3").failures(table) == []
    (line,) = Gate.parse("spectral_norm[weightwatcher]>3").failures(table)
    assert line == "w.weight: spectral_norm[weightwatcher] = 4"
    (line,) = Gate.parse("null_p>0").failures(table)
    assert line.startswith("w.weight: null_p[permuted] = ")


def test_parts_of_one_tensor_are_told_apart():
    model = torch.nn.MultiheadAttention(8, 2)
    table = sr.scan(model, metrics="stable_rank", select="in_proj_weight")
    lines = Gate.parse("stable_rank<100").failures(table)
    assert [line.split(":")[0] for line in lines] == [
        f"in_proj_weight[qkv.{part}]" for part in "qkv"
    ]


def test_a_pattern_may_choose_among_the_matrices_of_one_tensor():
    q, k, v = torch.eye(4), torch.ones(4, 4), torch.diag(torch.tensor([2.0, 1, 1, 1]))
    state = {"a.in_proj_weight": torch.cat([q, k, v]), "b.weight": torch.ones(3, 3)}
    table = sr.scan(state, metrics="stable_rank")
    names = {
        "stable_rank<3": ["[qkv.k]", "[qkv.v]", "b.weight"],
        "*[qkv.k]:stable_rank<3": ["a.in_proj_weight[qkv.k]"],
        "a.*[qkv.*]:stable_rank<3": ["[qkv.k]", "[qkv.v]"],
        "*[linear]:stable_rank<3": ["b.weight"],
        "*[qkv.q]:stable_rank<3": [],
    }
    for text, wanted in names.items():
        lines = Gate.parse(text).failures(table)
        assert len(lines) == len(wanted), text
        for line, name in zip(lines, wanted, strict=True):
            assert name in line
    with pytest.raises(UnknownNameError, match=r"of \*\[qkv\], the table .* mend"):
        Gate.parse("*[qkv]:stable_rank<3").failures(table)


def test_what_a_comparison_lost_fails_the_gates_that_reach_it():
    before = {f"{name}.weight": torch.eye(4) for name in "abc"}
    after = {f"{name}.weight": torch.eye(4) for name in ("a", "new")}
    after["b.weight"] = torch.ones(4, 5)
    table = sr.compare(before, after)
    lost = Gate.parse("relative_change>0.1").failures(table)
    assert [line.split(":")[0] for line in lost] == [
        *("b.weight", "c.weight", "new.weight")
    ]
    assert "(4, 4) in the first source, (4, 5) in the second" in lost[0]
    assert lost[1].endswith("only in the first source")
    assert lost[2].endswith("only in the second source")
    assert Gate.parse("a.*:relative_change>0.1").failures(table) == []
    # Nothing of it was compared, and yet it is no mistake in the pattern.
    (line,) = Gate.parse("c*[linear]:relative_change>0.1").failures(table)
    assert line == "c.weight: only in the first source"


def test_layers_that_an_adapter_leaves_alone_are_not_lost():
    W = torch.eye(6)
    base = {"q.weight": W, "other.weight": W}
    pair = {"q.lora_A.weight": torch.ones(2, 6), "q.lora_B.weight": torch.ones(6, 2)}
    table = sr.compare(base, pair)
    assert Gate.parse("relative_change<0.1").failures(table) == []
    (line,) = Gate.parse("relative_change>0.1").failures(table)
    assert line.startswith("q.weight: relative_change = ")


def test_a_metric_of_a_comparison_is_that_of_what_came_after():
    before, after = torch.eye(4), torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))
    table = sr.compare({"w": before}, {"w": after}, metrics="stable_rank")
    # 4 before, 7/4 after, 1 of the difference, -9/4 of change.
    (line,) = Gate.parse("stable_rank<1.8").failures(table)
    assert line.startswith("w: stable_rank.after = 1.75")
    assert Gate.parse("stable_rank<1.7").failures(table) == []
    assert Gate.parse("stable_rank>1.8").failures(table) == []
    (line,) = Gate.parse("stable_rank.before>3.9").failures(table)
    assert line.startswith("w: stable_rank.before = 4")


def test_a_gate_on_twins_says_what_too_few_of_them_can_tell(table):
    with pytest.raises(UnknownNameError, match="scan with null='permuted'"):
        Gate.parse("null_p>0.05").failures(table)
    with pytest.raises(UnknownNameError, match="scan with compat='weightwatcher'"):
        Gate.parse("alpha[weightwatcher]<2").failures(table)
    W = {"w": torch.randn(20, 15, generator=torch.Generator().manual_seed(0))}
    W["w"][0] += 5.0
    few = sr.scan(W, metrics="stable_rank", null="permuted")
    (line,) = Gate.parse("null_p>0.05").failures(few)
    assert line == "w: null_p[permuted] = 0.5 (with 1 of them it is at least 0.5)"
    enough = sr.scan(W, metrics="stable_rank", null="permuted", num_null=24)
    assert Gate.parse("null_p>0.05").failures(enough) == []
