"""The checkpoints of a run: their order, their steps, what is measured once."""

import sys
import warnings

import pytest
import torch

import spectrank as sr
from spectrank.cli.app import main
from spectrank.errors import ArgumentTypeError, CheckpointError, DomainError
from spectrank.scanning import trend
from spectrank.scanning.trend import find_steps


def _flat_to_rank_one(t):
    return {"fc.weight": torch.diag(torch.tensor([1.0, 1.0 - t, 1.0 - t]))}


def _measured(table):
    return table.where(kind="measurement").frame


@pytest.fixture
def run(tmp_path):
    for step, t in ((100, 1.0), (20, 0.5), (3, 0.0)):
        torch.save(_flat_to_rank_one(t), tmp_path / f"epoch1-step_{step}.pt")
    (tmp_path / "notes.txt").write_text("no weights")
    return tmp_path


def test_each_step_has_the_numbers_of_its_checkpoint_in_the_order_of_steps(run):
    table = sr.scan_steps(run, metrics="stable_rank")
    frame = table.where(kind="measurement").frame
    assert frame["step"].to_list() == [3, 20, 100]
    assert frame["value"].to_list() == pytest.approx([3.0, 1.5, 1.0])
    assert table.provenance["trend"] == [3, 20, 100]


def test_a_folder_for_each_checkpoint_serves_too(tmp_path):
    for step in (5, 40):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        torch.save(_flat_to_rank_one(1 / step), folder / "pytorch_model.bin")
    assert list(find_steps(tmp_path)) == [5, 40]
    table = sr.scan_steps(tmp_path, metrics="stable_rank")
    truth = [1.0 + 2 * (1 - 1 / step) ** 2 for step in (5, 40)]
    assert _measured(table)["value"].to_list() == pytest.approx(truth)


def test_a_mapping_of_steps_is_a_run():
    sources = {10: _flat_to_rank_one(1.0), 2: _flat_to_rank_one(0.0)}
    table = sr.scan_steps(sources, metrics="stable_rank")
    assert _measured(table)["step"].to_list() == [2, 10]
    with pytest.raises(ArgumentTypeError, match=r"got 'fc\.weight'"):
        sr.scan_steps(_flat_to_rank_one(0.0))


def test_equal_files_are_measured_once_and_have_rows_each(run, monkeypatch):
    (run / "epoch2-step_101.pt").write_bytes((run / "epoch1-step_100.pt").read_bytes())
    seen = []

    def counted(source, **options):
        seen.append(source.name)
        return sr.scan(source, **options)

    monkeypatch.setattr(trend, "scan", counted)
    table = sr.scan_steps(run, metrics="stable_rank")
    assert len(seen) == 3
    assert _measured(table)["value"].to_list() == pytest.approx([3.0, 1.5, 1.0, 1.0])


def test_a_damaged_checkpoint_is_a_row_and_the_others_are_measured(run):
    (run / "step_50.pt").write_bytes(b"junk")
    with pytest.warns(sr.errors.SpectrankWarning, match="1 of 4 checkpoints"):
        table = sr.scan_steps(run, metrics="stable_rank")
    (skip,) = list(table.where(kind="skip"))
    assert (skip["step"], skip["subject"]) == (50, "step 50")
    assert table.where(kind="measurement").frame["step"].to_list() == [3, 20, 100]


def test_a_checkpoint_without_a_step_is_a_row_that_says_so(run):
    torch.save(_flat_to_rank_one(1.0), run / "last.pt")
    table = sr.scan_steps(run, metrics="stable_rank")
    (skip,) = list(table.where(kind="skip"))
    assert skip["subject"] == "last.pt"
    assert "no step" in skip["reason"]
    assert _measured(table)["step"].to_list() == [3, 20, 100]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=2-val_loss=0.31", None),
        ("epoch=2-step=400-val_loss=0.31", 400),
        ("checkpoint-500", 500),
        ("global_step1200", 1200),
        ("model_iter_0030", 30),
        ("ckpt.7", 7),
        ("model-12", 12),
        ("gpt2-small-12", 12),
        ("step_5k", 5000),
        ("step_500", 500),
        ("checkpoint-10k-final", 10_000),
        ("iter1K_best", 1000),
        ("update2M", 2_000_000),
        ("step500final", 500),
        ("epoch_2.5", None),
        ("step1.5", None),
        ("step12.5", None),
        ("step1e5", None),
        ("llama-7b", None),
        ("llama-7B_chat-40", 40),
        ("tokens_2B", None),
        ("tokens_3k", None),
        ("lr1e-3", None),
        ("loss0.35", None),
        ("best", None),
    ],
)
def test_the_step_of_a_usual_name_is_no_decimal_place(name, step):
    # An epoch counts where nothing surer does.
    expected = 2 if name.startswith("epoch=2-val") else step
    assert trend._step_of(name) == expected


def test_steps_are_read_where_the_expression_says(run):
    assert list(find_steps(run, r"epoch(\d+)-step_3")) == [1]
    with pytest.raises(CheckpointError, match="both have step 1"):
        find_steps(run, r"epoch(\d+)")
    with pytest.raises(CheckpointError, match="weight files and folders: epoch1"):
        find_steps(run, r"iter(\d+)")
    with pytest.raises(DomainError, match="with a group"):
        find_steps(run, r"\d+")
    with pytest.raises(DomainError, match="is a regular expression"):
        find_steps(run, r"(\d+")
    with pytest.raises(CheckpointError, match="lie in a folder"):
        find_steps(run / "notes.txt")


@pytest.mark.parametrize("columns", ["40", "100"])
def test_the_command_shows_first_course_and_last(run, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "argv", ["spectrank", "trend", str(run)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code or 0) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(columns)
    line = next(x for x in out.splitlines() if x.startswith("fc.weight"))
    # 3, 1.5, 1 of 3: full, half, a third of eight bars.
    assert line.split() == ["fc.weight", "3", "█▅▃", "1"]
