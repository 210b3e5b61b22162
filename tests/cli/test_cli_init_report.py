"""``spectrank init-report``: what it prints at any width, writes and refuses."""

import inspect
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html import unescape

import command
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import spectrank as sr
from spectrank.cli.init_report import init_report_command
from spectrank.init.closeness import closeness, report

LONG = "encoder.layers.11.self_attention.query_projection.weight"


def run(*arguments, columns=100):
    return command.run("init-report", *arguments, columns=columns)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a.weight": torch.empty(40, 24),
        "b.weight": torch.empty(24, 24),
        LONG: torch.outer(torch.arange(1.0, 17.0), torch.ones(24)),
        "steps": torch.tensor([[1, 2]]),
        "zero.weight": torch.zeros(8, 8),
    }
    nn.init.kaiming_normal_(tensors["a.weight"], generator=generator)
    nn.init.orthogonal_(tensors["b.weight"], generator=generator)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("columns", [60, 160])
def test_every_layer_has_its_verdict_in_words_at_any_width(checkpoint, columns):
    result = run(checkpoint, columns=str(columns))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(result.stdout.split())
    if columns == 60:
        assert "still at its initialisation: He normal, gain sqrt 2" in words
        assert "orthogonal, gain 1: all 24 singular values are equal" in words
        assert "cannot tell: the matrix is zero" in words
    for part in ("a.weight", "b.weight", "projection.weight", "He normal", "gain 1:"):
        assert part in words
    assert "1 skipped" in words
    assert (
        "4 matrices: 1 at an initialisation, 1 orthogonal, 1 trained or shaped, "
        "1 cannot tell"
    ) in words


def test_options_reach_the_report_and_the_table_is_written(checkpoint, tmp_path):
    out = tmp_path / "t.parquet"
    result = run(
        *(checkpoint, "--select", "a.*", "--level", "0.01", "--num-draws", "500"),
        *("--seed", "3", "--view", "a.weight=linear-transposed", "--no-bulk"),
        *("--out", out, "--quiet"),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    table = sr.Table.read(out)
    truth = closeness(
        checkpoint,
        select="a.*",
        views={"a.weight": "linear-transposed"},
        level=0.01,
        num_draws=500,
        seed=3,
        bulk=False,
    )
    assert table.frame.equals(truth.frame)
    assert table.provenance["settings"] == truth.provenance["settings"]
    assert "--level 0.01" in table.provenance["command"]


def test_the_page_holds_every_check_with_its_verdict_and_reason(checkpoint, tmp_path):
    out, page = tmp_path / "t.parquet", tmp_path / "page.html"
    result = run(checkpoint, "--html", page, "--out", out)
    assert result.returncode == 0
    assert f"wrote {page}" in result.stderr
    text = page.read_text(encoding="utf-8")
    checks = list(sr.Table.read(out).where(kind="check"))
    assert len(checks) == 8
    section = unescape(
        text[text.index('<section id="checks"') :].partition("</section>")[0]
    )
    for row in checks:
        assert row["reason"] in section
    found = re.findall(r'data-verdict="([^"]*)"', section)
    assert Counter(found) == Counter(row["verdict"].replace("_", " ") for row in checks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["missing.safetensors"], "missing.safetensors"),
        (["{}", "--level", "0.9"], "level must lie in"),
        (["{}", "--select", "nothing"], "'nothing' matches none"),
        (["{}", "--view", "a.weight"], "a view reads PATTERN=VIEW"),
        (["{}", "--out", "t.xlsx"], "t.xlsx"),
        (["{}", "--html", "page.txt"], "a page is an .html file"),
        (["{}", "--out", "{}"], ".safetensors"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(checkpoint, options, message):
    result = run(*(text.format(checkpoint) for text in options))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_damaged_file_is_one_message_and_exit_code_2_of_the_process(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\0" * 40)
    result = subprocess.run(
        [sys.executable, "-m", "spectrank", "init-report", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "bad.safetensors" in result.stderr
    assert "Traceback" not in result.stderr


def test_factors_of_parametrised_weights_say_how_to_save_them(tmp_path):
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    )
    path = tmp_path / "m.pt"
    torch.save(model.state_dict(), path)
    words = " ".join(run(path).stdout.split())
    assert "5 skipped: factor of a parametrised weight" in words
    assert "save after torch.nn.utils.parametrize.remove_parametrizations" in words
    # The way out works, and a module needs none.
    assert len(closeness(model).where(metric="at_initialisation").frame) == 2
    for layer in model:
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch.save(model.state_dict(), path)
    words = " ".join(run(path).stdout.split())
    assert "2 matrices" in words
    assert "factor of" not in words


def test_without_the_bulk_a_large_rest_is_judged_by_its_participation_ratio(
    tmp_path, monkeypatch
):
    path = tmp_path / "m.safetensors"
    W = torch.diag(torch.cat([torch.tensor([3.0]), 1.0 / torch.arange(1.0, 64.0)]))
    save_file({"w.weight": W}, path)

    def rest(option):
        text = " ".join(run(path, option, columns="300").stdout.split())
        return text.partition("after the first singular value ")[2]

    assert rest("--no-bulk") == rest("--bulk")
    assert rest("--no-bulk").startswith("stable rank")

    def norms_only(W, needs, **options):
        # As of a large matrix.
        return replace(sr.spectrum(W, needs, **options), sigma=None, sigma_error=None)

    monkeypatch.setattr(report, "spectrum", norms_only)
    assert rest("--no-bulk").startswith("participation ratio")
    help_text = " ".join(run("--help", columns="300").stdout.split())
    assert "norms alone for large matrices" in help_text


def test_a_name_cannot_steer_the_terminal(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w\x1b[31m.weight": torch.eye(5)}, path)
    for columns in ("60", "160"):
        assert "\x1b" not in run(path, columns=columns).stdout


def test_defaults_are_those_of_the_function():
    command = inspect.signature(init_report_command).parameters
    function = inspect.signature(closeness).parameters
    for name in ("select", "level", "num_draws", "bulk", "seed"):
        assert command[name].default == function[name].default
