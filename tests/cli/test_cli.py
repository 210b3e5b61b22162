"""The command line: outputs, exit codes, one message for each mistake."""

import inspect
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from command import run
from safetensors.torch import save_file

import spectrank as sr
from spectrank.cli.scan import parse_bytes, scan_command
from spectrank.errors import DomainError


def process(*arguments, cwd=None, columns="100"):
    """Run the real process, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "spectrank", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": columns, "NO_COLOR": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            "fc1.weight": torch.randn(24, 16, generator=generator),
            "fc1.bias": torch.zeros(24),
            "fc2.weight": torch.outer(torch.arange(1.0, 9.0), torch.ones(24)),
            "steps": torch.tensor([[1, 2]]),
        },
        path,
    )
    return path


def test_a_scan_prints_a_table_and_writes_what_was_asked(checkpoint, tmp_path):
    outputs = [tmp_path / name for name in ("t.parquet", "t.json", "t.csv")]
    options = [x for path in outputs for x in ("--out", path)]
    html = tmp_path / "r.html"
    result = process("scan", checkpoint, *options, "--html", html)
    assert result.returncode == 0, result.stderr
    assert "fc1.weight" in result.stdout
    assert "stable" in result.stdout
    assert "2 skipped" in result.stdout
    for path in [*outputs, html]:
        assert str(path) in result.stderr.replace("\n", "")
    tables = [sr.Table.read(path) for path in outputs]
    assert all(t.frame.equals(tables[0].frame) for t in tables)
    truth = sr.scan(checkpoint)
    assert tables[0].frame.equals(truth.frame)
    assert "fc1.weight" in html.read_text(encoding="utf-8")


def test_quiet_prints_nothing(checkpoint):
    result = run("scan", checkpoint, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_options_reach_the_scan(checkpoint, tmp_path):
    out = tmp_path / "t.json"
    result = run(
        *("scan", checkpoint, "--metrics", "stable_rank,energy_rank:q=0.5"),
        *("--select", "fc*", "--view", "fc2.weight=linear-transposed"),
        *("--rtol", "0.01", "--seed", "3", "--certify", "deterministic"),
        *("--no-spectra", "--out", out),
    )
    assert result.returncode == 0, result.stderr
    document = json.loads(out.read_text(encoding="utf-8"))
    settings = document["provenance"]["settings"]
    assert settings["metrics"] == ["stable_rank", "energy_rank:q=0.5"]
    assert settings["rtol"] == 0.01
    assert settings["certify"] == "deterministic"
    assert document["provenance"]["seed"] == 3
    table = sr.Table.read(out)
    assert len(table.where(kind="spectrum")) == 0
    (row,) = table.where(subject="fc2.weight", metric="stable_rank")
    assert (row["view"], row["m"], row["n"]) == ("linear-transposed", 24, 8)
    assert row["inferred"] is False


def test_the_command_is_in_the_provenance(checkpoint, tmp_path):
    out = tmp_path / "t.json"
    run("scan", checkpoint, "--out", out)
    command = json.loads(out.read_text(encoding="utf-8"))["provenance"]["command"]
    assert command.startswith("spectrank scan ")
    assert str(out) in command


def test_limits_and_a_folder_to_resume_from_reach_the_scan(checkpoint, tmp_path):
    out, parts = tmp_path / "t.json", tmp_path / "parts"
    options = ("--resume", parts, "--memory", "1 kB", "--null", "gaussian")
    result = run("scan", checkpoint, *options, "--num-null", "2", "--out", out)
    assert result.returncode == 0, result.stderr
    table = sr.Table.read(out)
    assert "ceiling is 1.0 kB" in table.where(subject="fc1.weight").frame["reason"][0]
    assert list(parts.iterdir()) == []
    settings = table.provenance["settings"]
    assert (settings["null"], settings["num_null"]) == ("gaussian", 2)
    options = ("--resume", parts, "--workers", "2", "--compat", "weightwatcher")
    result = run("scan", checkpoint, *options, "--out", out)
    assert result.returncode == 0, result.stderr
    truth = sr.scan(checkpoint, compat="weightwatcher")
    assert sr.Table.read(out).frame.equals(truth.frame)
    assert len(list(parts.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4GB", 4_000_000_000),
        ("512 MiB", 512 * 2**20),
        ("1e9", 1_000_000_000),
        ("1.5kB", 1500),
        ("2T", 2_000_000_000_000),
        ("100", 100),
    ],
)
def test_a_number_of_bytes_reads_as_people_write_it(text, number):
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "4XB", "-1", "0", "1.2.3", "4GB more"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(DomainError, match=r"number of bytes.*e\.g\. 4GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("gate", "code"),
    [("stable_rank<2", 1), ("stable_rank<0.5", 0), ("condition_number>1e6", 1)],
)
def test_a_gate_sets_the_exit_code(checkpoint, gate, code):
    result = run("scan", checkpoint, "--fail-if", gate)
    assert result.returncode == code, result.stderr
    assert ("fc2.weight" in result.stderr) == bool(code)
    assert f"gate {gate}: fc1.weight" not in result.stderr


def test_a_gate_adds_its_metric(checkpoint):
    result = run(
        *("scan", checkpoint, "--metrics", "energy_rank", "--fail-if", "stable_rank<2")
    )
    assert result.returncode == 1
    assert "gate stable_rank<2: fc2.weight: stable_rank = 1" in result.stderr
    result = run(
        *("scan", checkpoint, "--metrics", "stable_rank"),
        *("--fail-if", "effective_rank[squared]<2"),
    )
    assert result.returncode == 1
    assert "fc2.weight: effective_rank[squared] = 1" in result.stderr


def test_the_defaults_of_the_command_are_the_librarys():
    options = inspect.signature(scan_command).parameters
    library = inspect.signature(sr.scan).parameters
    names = ("rtol", "certify", "seed", "spectra", "num_null", "workers")
    for name in names:
        assert options[name].default == library[name].default, name


def test_a_layer_that_cannot_be_measured_fails_its_gate(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a.weight": torch.full((3, 3), math.nan)}, path)
    assert run("scan", path).returncode == 0
    result = run("scan", path, "--fail-if", "stable_rank<2")
    assert result.returncode == 1
    assert "stable_rank is nonfinite" in result.stderr


MISTAKES = [
    (["scan", "absent.safetensors"], "absent.safetensors"),
    (["scan", "CHECKPOINT", "--metrics", "stabel_rank"], "did you mean 'stable_rank'"),
    (["scan", "CHECKPOINT", "--select", "nothing.*"], "matches none"),
    (["scan", "CHECKPOINT", "--view", "fc1.weight"], "PATTERN=VIEW"),
    (["scan", "CHECKPOINT", "--view", "fc1.weight=lineal"], "did you mean 'linear'"),
    (["scan", "CHECKPOINT", "--fail-if", "stable_rank=2"], "METRIC<NUMBER"),
    (["scan", "CHECKPOINT", "--out", "table.xlsx"], ".parquet, .json or .csv"),
    (["scan", "CHECKPOINT", "--out", "no/such/folder/t.csv"], "existing, writable"),
    (["scan", "CHECKPOINT", "--html", "no/such/folder/r.html"], "folder"),
    (["scan", "CHECKPOINT", "--html", "CHECKPOINT"], "a page is an .html file"),
    (["scan", "CHECKPOINT", "--out", "t.csv", "--out", "./t.csv"], "of its own"),
    (["scan", ""], "path"),
    (["scan", "CHECKPOINT", "--rtol", "0"], "rtol must lie in (0, 1)"),
    (["scan", "CHECKPOINT", "--certify", "maybe"], "deterministic"),
    (["scan", "CHECKPOINT", "--nonsense"], "No such option"),
    (["scan", "CHECKPOINT", "--workers", "0"], "workers is at least 1"),
    (["scan", "CHECKPOINT", "--memory", "some"], "e.g. 4GB"),
    (["scan", "CHECKPOINT", "--null", "shuffled"], "permuted, gaussian"),
    (["scan", "CHECKPOINT", "--device", "abacus"], "one that torch can use"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_message_and_exit_code_2(
    checkpoint, tmp_path, arguments, message
):
    words = [str(checkpoint) if a == "CHECKPOINT" else a for a in arguments]
    result = run(*words, cwd=tmp_path)
    assert result.returncode == 2, result.stdout
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_mistake_in_the_outputs_is_told_before_the_scan(checkpoint, tmp_path):
    result = run("scan", checkpoint, "--out", "table.xlsx", cwd=tmp_path)
    assert "fc1.weight" not in result.stdout


def test_text_named_safetensors_is_one_message(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("hello, this is not a checkpoint", encoding="utf-8")
    result = run("scan", path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_the_catalogue_names_formula_needs_and_source():
    result = run("metrics")
    assert result.returncode == 0
    for metric in sr.list_metrics():
        assert metric.name in result.stdout
    assert "||W||_F^2 / s_1^2" in result.stdout
    assert "arXiv:1906.04659" in result.stdout
    entries = json.loads(run("metrics", "--json").stdout)
    assert {e["name"] for e in entries} == {m.name for m in sr.list_metrics()}
    for entry in entries:
        assert entry.keys() >= {"formula", "needs", "source", "range", "invariances"}


@pytest.mark.parametrize("columns", ["40", "60", "200"])
def test_output_fits_the_terminal(checkpoint, columns):
    for arguments in (["metrics"], ["scan", checkpoint]):
        result = run(*arguments, columns=columns)
        assert result.returncode == 0
        longest = max(len(line) for line in result.stdout.splitlines())
        assert longest <= int(columns)


def test_without_arguments_it_shows_its_help():
    result = run()
    assert "scan" in result.stdout + result.stderr
