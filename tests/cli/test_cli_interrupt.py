"""Ctrl-C in the middle of a command: one message, exit code 130, nothing lost."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import interrupted_scan
import pytest
import torch
from counted_measures import counted
from safetensors.torch import save_file
from typer.testing import CliRunner

import spectrank as sr
from spectrank.cli.app import app
from spectrank.scanning.running import run

NUM = 6


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "m.safetensors"
    generator = torch.Generator().manual_seed(0)
    shapes = [(40 + i, 30) for i in range(NUM)]
    state = {f"w{i}": torch.randn(s, generator=generator) for i, s in enumerate(shapes)}
    save_file(state, path)
    return path


@pytest.fixture
def measured(monkeypatch):
    return counted(monkeypatch)


def living(group):
    """Processes of a group that still run; what waits to be reaped does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(stat)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux lists groups")
def test_workers_end_with_the_command_and_what_is_finished_is_kept(
    checkpoint, tmp_path, measured
):
    truth = sr.scan(checkpoint)
    measured.clear()
    parts = tmp_path / "parts"
    words = ["scan", str(checkpoint), "--workers", "2", "--resume", str(parts)]
    process = subprocess.Popen(
        [sys.executable, interrupted_scan.__file__, "1", *words],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    output, errors = process.communicate()
    assert (process.returncode, output.strip()) == (130, ""), errors
    assert f"the same command goes on from {parts}" in errors
    assert "Traceback" not in errors
    # A worker that was importing then dies without a word, too.
    # The one that tracks their semaphores sees a moment later that they are gone.
    deadline = time.monotonic() + 30.0
    while living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living(process.pid) == []
    kept = len(list(parts.glob("*.part")))
    assert kept >= 1
    again = sr.scan(checkpoint, resume=parts)
    assert len(measured) == NUM - kept
    assert again.frame.equals(truth.frame)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ([], "interrupted: nothing was kept; with --resume FOLDER it would go on"),
        (["--resume", "PARTS"], f"interrupted: 2 of {NUM} matrices; the same command"),
    ],
)
def test_a_command_says_what_is_left_of_it(
    checkpoint, tmp_path, monkeypatch, option, told
):
    real, names = run._Tally.started, []

    def started(self, job):
        real(self, job)
        names.append(job.weights[0].name)
        if len(names) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(run._Tally, "started", started)
    words = [x.replace("PARTS", str(tmp_path / "parts")) for x in option]
    out = tmp_path / "t.json"
    result = CliRunner().invoke(
        app, ["scan", str(checkpoint), "--out", str(out), *words]
    )
    assert result.exit_code == 130
    assert told in " ".join(result.output.split())
    assert not out.exists()


@pytest.mark.parametrize("command", ["compare", "trend"])
def test_the_other_commands_say_that_nothing_was_written(
    checkpoint, tmp_path, monkeypatch, command
):
    modules = {"compare": "compare", "trend": "scan_steps"}
    # The packages have functions of the same names.
    module = importlib.import_module(f"spectrank.scanning.{command}")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, modules[command], interrupted)
    sources = [str(checkpoint)] * 2 if command == "compare" else [str(tmp_path)]
    result = CliRunner().invoke(app, [command, *sources])
    assert result.exit_code == 130
    assert "interrupted: nothing was written" in result.output
