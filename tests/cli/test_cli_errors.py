"""Exit codes of what goes wrong: none passes for the verdict of a gate."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import save_file

from spectrank.cli.app import DEFECT
from spectrank.cli.outputs import check_targets
from spectrank.errors import TableError


def failed(*arguments):
    """Exit code and messages of a command."""
    result = run(*arguments)
    return result.returncode, result.stderr


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.eye(3)}, path)
    return path


@pytest.fixture
def loop(tmp_path):
    path = tmp_path / "loop"
    path.symlink_to(path)
    return path


@pytest.mark.parametrize("name", ["scan", "trend", "init-report"])
def test_a_loop_of_links_is_an_unusable_source(loop, name):
    code, told = failed(name, loop, "--quiet")
    assert code == 2
    assert told.startswith("error: ")
    assert str(loop) in told.replace("\n", "")


@pytest.mark.parametrize("first", [True, False])
def test_a_loop_of_links_is_no_side_of_a_comparison(checkpoint, loop, first):
    sides = (loop, checkpoint) if first else (checkpoint, loop)
    code, told = failed("compare", *sides, "--quiet")
    assert (code, told[:7]) == (2, "error: ")


@pytest.mark.parametrize("name", ["scan", "trend", "init-report"])
def test_a_name_too_long_for_the_file_system_is_an_unusable_source(name):
    code, told = failed(name, "a" * 300, "--quiet")
    assert (code, told[:7]) == (2, "error: ")
    assert "Traceback" not in told


def test_a_loop_of_links_is_no_place_for_outputs(checkpoint, loop):
    for target in (loop / "t.csv", loop / "t.html"):
        option = "--html" if target.suffix == ".html" else "--out"
        code, told = failed("scan", checkpoint, "--quiet", option, target)
        assert (code, told[:7]) == (2, "error: ")
    code, told = failed("scan", checkpoint, "--quiet", "--resume", loop)
    assert code == 2
    assert "resume names a writable folder" in told


def test_outputs_that_meet_behind_links_are_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(TableError, match="a file of its own"):
        check_targets([tmp_path / "real/t.csv", tmp_path / "link/t.csv"], None)
    with pytest.raises(TableError, match="none is the source"):
        check_targets(
            [tmp_path / "link/t.csv"], None, source=str(tmp_path / "real/t.csv")
        )


def test_an_error_that_nobody_foresaw_is_no_verdict(checkpoint, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("7 of 9")

    scanning = importlib.import_module("spectrank.scanning")
    monkeypatch.setattr(scanning, "scan", broken)
    code, told = failed("scan", checkpoint, "--fail-if", "stable_rank<2")
    assert code == DEFECT
    assert code not in {0, 1, 2, 130}
    # The traceback is for the report of it, the last line for who reads.
    assert "ZeroDivisionError: 7 of 9" in told
    assert "in broken" in told
    assert "a defect of spectrank" in told.splitlines()[-1]


def test_a_file_that_the_system_refuses_is_named(checkpoint, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "/some/where")

    scanning = importlib.import_module("spectrank.scanning")
    monkeypatch.setattr(scanning, "scan", refused)
    code, told = failed("scan", checkpoint)
    assert code == 2
    assert "'/some/where' that cannot be used (Permission denied)" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk")
def test_an_output_without_room_is_an_unusable_output(checkpoint):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-m", "spectrank", "scan", str(checkpoint)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            check=False,
        )
    assert result.returncode == 2
    assert "the output that cannot be used (No space left on device)" in result.stderr
