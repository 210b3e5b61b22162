"""Every block of the README runs, in order, as a reader would run it."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from spectrank.cli.app import app
from spectrank.metrics import registry

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("pandas", reason="the README shows to_pandas()")
    namespace = {}
    assert len(blocks("python")) >= 5
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), namespace)
    registry.unregister("top_energy_share")
    assert {p.name for p in tmp_path.iterdir()} == {"scan.parquet", "report.html"}
    assert "lanczos-float32 probabilistic 1e-09" in capsys.readouterr().out


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """A checkpoint and a folder of the names that the README uses."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"layers.{i}.mlp.{part}.weight": torch.randn(24, 16, generator=generator)
        for i in range(2)
        for part in ("up", "down")
    }
    save_file(weights, "model.safetensors")
    save_file(weights, "base.safetensors")
    # A little decay: no gate of the README fails.
    tuned = {name: 0.95 * value for name, value in weights.items()}
    save_file(tuned, "tuned.safetensors")
    run = tmp_path / "path" / "to" / "checkpoints"
    run.mkdir(parents=True)
    for step, stored in ((0, weights), (100, tuned)):
        save_file(stored, run / f"step_{step}.safetensors")
    folder = tmp_path / "path" / "to" / "folder"
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    return tmp_path


def test_the_commands_run(checkpoints):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "spectrank"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.output)
    assert (checkpoints / "report.html").stat().st_size > 1_000_000
    assert (checkpoints / "scan.parquet").exists()


def test_the_table_of_metrics_is_the_catalogue():
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {metric.name for metric in registry.list_metrics()}
