"""Running a paper: rows, progress, cache, missing data."""

import pytest
import torch

from spectrank.errors import DomainError, SpectrankWarning, TableError, UnknownNameError
from spectrank.experiments import (
    Claim,
    Paper,
    Progress,
    get_paper,
    judge,
    list_papers,
    reproduce,
    running,
)
from spectrank.experiments.data import DataError
from spectrank.experiments.papers import Part, PartResult


def claim(name, expected=1.0):
    return Claim(
        key=f"toy2024paper.{name}",
        statement=f"{name} is one.",
        whose="ours",
        protocol="three seeds",
        quantity="size",
        relation="equals",
        expected=expected,
        tolerance=0.5,
        source="this test",
    )


class Toy:
    """A paper of two parts that counts its runs and fails where it is told to."""

    def __init__(self):
        self.runs = []
        self.absent = set()
        self.dies = set()
        self.setting = 1

    def part(self, name):
        asked = claim(name)

        def run(seed, tick):
            self.runs.append((name, seed))
            if name in self.absent:
                raise DataError(f"the data of {name} is not there; fetch it")
            for _ in range(3):
                tick()
            if name in self.dies:
                raise KeyboardInterrupt
            row = judge(asked, [1.0 + seed, 1.1 + seed, 0.9 + seed])
            axes = {"title": name, "x": "x", "y": "y"}
            return PartResult(
                (row,),
                {asked.key: axes | {"x_scale": "log", "y_scale": "log"}},
                {f"{name} data": {"file": "0" * 64}},
            )

        return Part(name, (asked,), {"setting": self.setting}, 3, run)

    @property
    def paper(self):
        return Paper(
            key="toy2024paper",
            title="A toy",
            authors="Nobody",
            identifier="none",
            parts=lambda mode: (self.part("first"), self.part("second")),
            cost={},
        )


@pytest.fixture
def toy(monkeypatch):
    toy = Toy()
    monkeypatch.setattr(running, "get_paper", lambda key: toy.paper)
    return toy


def test_rows_and_provenance_tell_what_was_run(toy):
    table = reproduce("toy2024paper", seed=0)
    assert [row["subject"] for row in table] == [
        "toy2024paper.first",
        "toy2024paper.second",
    ]
    provenance = table.provenance
    assert provenance["paper"] == {
        "key": "toy2024paper",
        "title": "A toy",
        "authors": "Nobody",
        "identifier": "none",
    }
    assert (provenance["mode"], provenance["seed"]) == ("quick", 0)
    assert provenance["seconds"] >= 0
    assert set(provenance["figures"]) == {r["subject"] for r in table}
    assert provenance["data"]["first data"] == {"file": "0" * 64}
    assert "torch" in provenance["versions"]
    assert "scikit-learn" in provenance["versions"]
    assert [part["name"] for part in provenance["parts"]] == ["first", "second"]
    first = provenance["parts"][0]
    assert first["settings"] == {"setting": 1}
    assert first["platform"] == provenance["platform"]
    assert first["num_threads"] == torch.get_num_threads()


def test_the_seed_reaches_every_part(toy):
    table = reproduce("toy2024paper", seed=7)
    assert toy.runs == [("first", 7), ("second", 7)]
    assert {row["verdict"] for row in table} == {"contradicted"}
    assert table.provenance["seed"] == 7


def test_progress_counts_every_step_once(toy):
    seen = []
    reproduce("toy2024paper", progress=seen.append)
    assert [p.num_done for p in seen] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert {p.num_steps for p in seen} == {6}
    assert seen[-1] == Progress("", 6, 6)
    assert [p.part for p in seen[:5]] == ["first"] * 4 + ["second"]


def test_a_cut_run_resumes_after_the_last_whole_part(toy, tmp_path):
    cache = tmp_path / "deep" / "cache"
    toy.dies.add("second")
    with pytest.raises(KeyboardInterrupt):
        reproduce("toy2024paper", cache=cache)
    toy.dies.clear()
    toy.runs.clear()
    table = reproduce("toy2024paper", cache=cache)
    assert toy.runs == [("second", 0)]
    assert [p.get("cached") for p in table.provenance["parts"]] == [True, None]
    assert table.frame.equals(reproduce("toy2024paper").frame)
    seen = []
    again = reproduce("toy2024paper", cache=cache, progress=seen.append)
    assert again.frame.equals(table.frame)
    assert again.provenance["figures"] == table.provenance["figures"]
    assert [p.num_done for p in seen] == [0, 3, 6]


@pytest.mark.parametrize("change", ["seed", "mode", "setting", "claim", "revision"])
def test_another_run_does_not_take_a_cached_part(toy, tmp_path, monkeypatch, change):
    reproduce("toy2024paper", cache=tmp_path)
    toy.runs.clear()
    options = {}
    if change == "seed":
        options["seed"] = 1
    if change == "mode":
        options["mode"] = "full"
    if change == "setting":
        toy.setting = 2
    if change == "claim":
        module = globals()
        monkeypatch.setitem(module, "claim", lambda n, real=claim: real(n, 0.9))
    if change == "revision":
        monkeypatch.setattr(running, "_REVISION", -1)
    reproduce("toy2024paper", cache=tmp_path, **options)
    assert len(toy.runs) == 2


def test_a_damaged_part_is_run_again_with_a_warning(toy, tmp_path):
    whole = reproduce("toy2024paper", cache=tmp_path)
    path = next(tmp_path.glob("first-*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    toy.runs.clear()
    with pytest.warns(SpectrankWarning, match="run again"):
        table = reproduce("toy2024paper", cache=tmp_path)
    assert toy.runs == [("first", 0)]
    assert table.frame.equals(whole.frame)


def test_a_cache_that_cannot_be_made_is_told_before_the_run(toy, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(TableError, match="the cache is a folder"):
        reproduce("toy2024paper", cache=tmp_path / "file")
    assert toy.runs == []


def test_claims_without_their_data_are_not_applicable_and_the_rest_is_run(toy):
    toy.absent.add("first")
    with pytest.warns(SpectrankWarning, match="the data of first is not there"):
        table = reproduce("toy2024paper")
    first, second = table
    assert first["verdict"] == "not_applicable"
    assert "fetch it" in first["reason"]
    assert second["verdict"] == "reproduced"


def test_without_any_data_the_reason_is_raised(toy):
    toy.absent |= {"first", "second"}
    with pytest.raises(DataError, match="the data of first"):
        reproduce("toy2024paper")


def test_unknown_papers_and_modes_are_told():
    with pytest.raises(UnknownNameError, match="did you mean 'georgiev2021stable'"):
        reproduce("georgiev2021")
    with pytest.raises(UnknownNameError, match="one of georgiev2021stable"):
        get_paper("zzz")
    with pytest.raises(DomainError, match="quick or full"):
        reproduce("georgiev2021stable", "slow")


def test_papers_are_listed_with_distinct_claims():
    for paper in list_papers():
        assert get_paper(paper.key) is paper
        for mode in ("quick", "full"):
            keys = [c.key for c in paper.claims(mode)]
            names = [part.name for part in paper.parts(mode)]
            assert len(set(keys)) == len(keys) > 0
            assert len(set(names)) == len(names)
            assert all(key.startswith(f"{paper.key}.") for key in keys)
