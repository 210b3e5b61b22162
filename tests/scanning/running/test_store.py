"""Resumed scans: a kill at any write loses nothing, a bad part is measured again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import killed_scans
import pytest
import torch
from counted_measures import counted
from torch import nn

import spectrank as sr
from spectrank.errors import DomainError, SpectrankWarning
from spectrank.metrics.registry import register, unregister

NUM_KILLS = 50


def test_a_kill_at_any_write_loses_nothing_and_resumes_equal(tmp_path):
    """Fifty deaths, one at each step of writing the first six parts."""
    assert NUM_KILLS <= killed_scans.NUM_MATRICES * killed_scans.STEPS_OF_A_PART
    done = subprocess.run(
        [sys.executable, killed_scans.__file__, tmp_path, str(NUM_KILLS)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    truth, *reports = found["reports"]
    assert len(truth["measured"]) == killed_scans.NUM_MATRICES
    assert found["codes"] == [9] * NUM_KILLS
    assert len(reports) == NUM_KILLS
    for last, report in enumerate(reports, start=1):
        # The last step of a part is the one after its renaming.
        whole, within = divmod(last, killed_scans.STEPS_OF_A_PART)
        assert report["parts"] == whole
        assert report["measured"] == truth["measured"][whole:]
        assert report["rows"] == truth["rows"]
        assert report["left"] == (within > 0)


@pytest.fixture
def measured(monkeypatch):
    return counted(monkeypatch)


def source():
    return killed_scans.source()


def test_what_was_finished_is_not_measured_again(tmp_path, measured):
    truth = sr.scan(source())
    measured.clear()
    first = sr.scan(source(), resume=tmp_path / "parts")
    assert measured == list(source())
    again = sr.scan(source(), resume=tmp_path / "parts")
    assert measured == list(source())
    assert first.frame.equals(truth.frame)
    assert again.frame.equals(truth.frame)


def test_parts_go_by_content_not_by_name(tmp_path, measured):
    first = source()
    sr.scan(first, resume=tmp_path)
    measured.clear()
    renamed = {f"new.{name}": W for name, W in first.items()}
    table = sr.scan(renamed, resume=tmp_path)
    assert measured == []
    assert set(table.frame["subject"]) == set(renamed)
    changed = {**first, "w2": first["w2"].clone()}
    changed["w2"][1, 1] += 1e-6
    sr.scan(changed, resume=tmp_path)
    assert measured == ["w2"]
    measured.clear()
    # Equal bytes under another shape, and another dtype of equal values.
    bent = {"a": first["w3"].reshape(4, -1), "b": first["w4"].double()}
    sr.scan(bent, resume=tmp_path)
    assert measured == ["a", "b"]


@pytest.mark.parametrize(
    "options",
    [
        {"metrics": "stable_rank"},
        {"rtol": 1e-3},
        {"seed": 1},
        {"certify": "deterministic"},
        {"failure_probability": 1e-6},
        {"spectra": False},
        {"null": "permuted"},
        {"null": "gaussian", "num_null": 2},
        {"compat": "weightwatcher"},
        {"device": "cpu"},
    ],
)
def test_other_settings_have_other_parts(tmp_path, measured, options):
    W = {"w": source()["w1"]}
    sr.scan(W, resume=tmp_path)
    table = sr.scan(W, resume=tmp_path, **options)
    assert measured == ["w", "w"]
    assert table.frame.equals(sr.scan(W, **options).frame)


def damaged(path, how):
    raw = path.read_bytes()
    if how == "empty":
        return b""
    if how == "cut":
        return raw[: len(raw) // 2]
    if how == "flipped":
        # Of a number: what comes of it is as good a file as before.
        digit = raw.index(b'"value": ') + len(b'"value": ')
        return raw[:digit] + bytes([raw[digit] ^ 1]) + raw[digit + 1 :]
    return b"0" * 64 + b"\n{}"


@pytest.mark.parametrize("how", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_part_is_measured_again_and_replaced(tmp_path, measured, how):
    truth = sr.scan(source(), resume=tmp_path)
    for path in list(tmp_path.iterdir())[:2]:
        path.write_bytes(damaged(path, how))
    measured.clear()
    assert sr.scan(source(), resume=tmp_path).frame.equals(truth.frame)
    assert len(measured) == 2
    measured.clear()
    sr.scan(source(), resume=tmp_path)
    assert measured == []


def test_a_part_under_the_name_of_another_is_not_believed(tmp_path, measured):
    truth = sr.scan(source(), resume=tmp_path)
    one, other, *_ = tmp_path.iterdir()
    one.write_bytes(other.read_bytes())
    measured.clear()
    assert sr.scan(source(), resume=tmp_path).frame.equals(truth.frame)
    assert len(measured) == 1


def test_small_matrices_of_one_shape_share_a_part(tmp_path, measured):
    generator = torch.Generator().manual_seed(8)
    many = {f"w{i}": torch.randn(6, 4, generator=generator) for i in range(300)}
    truth = sr.scan(many, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    measured.clear()
    assert sr.scan(many, resume=tmp_path).frame.equals(truth.frame)
    assert measured == []
    many["w299"] = many["w299"] + 1
    sr.scan(many, resume=tmp_path)
    assert measured == [f"w{i}" for i in range(256, 300)]


def test_what_could_not_be_read_is_not_kept(tmp_path, monkeypatch, measured):
    net = nn.Linear(4, 3)
    real = sr.WeightMatrix.operand

    def operand(self):
        raise sr.errors.CheckpointError("a tensor must be readable, got dust; re-save")

    monkeypatch.setattr(sr.WeightMatrix, "operand", operand)
    with pytest.warns(SpectrankWarning, match="1 of the tensors"):
        sr.scan(net, resume=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sr.WeightMatrix, "operand", real)
    table = sr.scan(net, resume=tmp_path)
    assert measured == ["weight"]
    assert table.value("weight", "stable_rank") >= 1


def test_a_resumed_scan_warns_as_the_first_one_did(tmp_path, measured):
    @register(
        needs=["sigma_max"],
        formula="1 / 0",
        source="a test",
        range=lambda k: (0.0, 1.0),
        invariances=[],
    )
    def failing_metric(s):
        """A metric that fails."""
        raise ZeroDivisionError("planted")

    try:
        for _ in range(2):
            with pytest.warns(SpectrankWarning, match="w: failing_metric raised"):
                sr.scan({"w": torch.eye(3)}, metrics=failing_metric, resume=tmp_path)
    finally:
        unregister("failing_metric")
    assert measured == ["w"]


def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(
    tmp_path, measured
):
    (tmp_path / "file").write_text("x")
    folders = [tmp_path / "file", tmp_path / "no" / "parent"]
    # A folder that exists and takes no file, whoever asks.
    folders += [folder for folder in (Path("/proc"),) if folder.is_dir()]
    for folder in folders:
        with pytest.raises(DomainError, match="resume names a writable folder"):
            sr.scan(source(), resume=folder)
    with pytest.raises(DomainError, match="got the empty path; leave it out"):
        sr.scan(source(), resume="")
    assert measured == []


def test_only_old_leftovers_are_swept(tmp_path):
    old, new = tmp_path / ".a.part.1.tmp", tmp_path / ".b.part.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    import os

    os.utime(old, (0, 0))
    sr.scan({"w": torch.eye(3)}, resume=Path(tmp_path))
    assert not old.exists()
    assert new.exists()


def test_one_matrix_under_two_views_is_two_parts(tmp_path):
    # Rows may depend on the view: WeightWatcher measures no unfolded kernel.
    W = torch.randn(30, 30, generator=torch.Generator().manual_seed(0))
    both = {"fc.weight": W, "conv.weight": W.clone().reshape(30, 30, 1)}
    options = {"metrics": "stable_rank", "compat": "weightwatcher"}
    plain = sr.scan(both, **options)
    kept = sr.scan(both, **options, resume=tmp_path / "parts")
    again = sr.scan(both, **options, resume=tmp_path / "parts")
    for table in (kept, again):
        assert table.frame.equals(plain.frame)
    rows = plain.where(subject="conv.weight", variant="weightwatcher").frame
    assert set(rows["status"]) == {"skipped"}


def test_a_folder_that_goes_during_the_scan_is_said_to_be_gone(tmp_path):
    folder = tmp_path / "finished"

    def remove(progress):
        if progress.num_done == 1:
            shutil.rmtree(folder)

    state = {"a": torch.eye(3), "b": torch.ones(2, 2)}
    with pytest.raises(
        DomainError, match=r"No such file.*leave it where it is and scan"
    ):
        sr.scan(state, metrics="stable_rank", resume=folder, progress=remove)
