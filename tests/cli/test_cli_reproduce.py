"""``spectrank reproduce``: summary, outputs, exit codes, mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import spectrank.experiments.georgiev2021stable as paper_module
from spectrank.cli import app as app_module
from spectrank.cli import reproduce as reproduce_module
from spectrank.cli.app import app
from spectrank.experiments import get_paper, list_papers, running
from spectrank.experiments.data import DataError
from spectrank.experiments.georgiev2021stable import mean_signal
from spectrank.experiments.georgiev2021stable.protocol import Size
from spectrank.table import Table

KEY = "georgiev2021stable"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A few networks are enough to see that the command works."""
    sizes = {"quick": Size(3, 4), "full": Size(3, 4)}
    monkeypatch.setattr(mean_signal, "_SIZES", sizes)
    paper = replace(paper_module.PAPER, parts=mean_signal.parts)
    monkeypatch.setattr(paper_module, "PAPER", paper)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Parts are run once for all tests of this module."""
    return tmp_path_factory.mktemp("cache")


def run(*arguments, columns=100):
    """Run in this process: the sizes are small only here."""
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


@pytest.mark.parametrize("columns", [40, 60, 100, 140])
def test_the_summary_tells_every_claim_and_fits_the_terminal(cache, columns):
    result = run("reproduce", KEY, "--quick", "--cache", cache, columns=columns)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for claim in get_paper(KEY).claims("quick"):
        assert claim.relation_text.split()[1] in text
        if columns < 100:
            assert claim.key.removeprefix(f"{KEY}.") in text
    assert text.count("ours") >= 14 if columns >= 60 else True
    assert "14 claims" in text
    assert max(len(line) for line in result.stdout.splitlines()) <= columns


def test_statements_measured_and_expected_stand_together(cache):
    result = run("reproduce", KEY, "--cache", cache, columns=60)
    table = running.reproduce(KEY, cache=cache)
    row = next(iter(table.where(kind="claim")))
    text = " ".join(result.stdout.split())
    assert row["statement"] in text
    start = text.index(row["statement"])
    piece = text[start : start + 300]
    assert f"measured {row['value']:.1f}"[:-1] in piece
    assert "expected within 0.1 of 1" in piece


def test_what_is_not_reproduced_is_said_with_its_reason(cache):
    # Twelve networks decide little: the honest word is inconclusive.
    result = run("reproduce", KEY, "--cache", cache)
    table = running.reproduce(KEY, cache=cache)
    rows = [r for r in table.where(kind="claim") if r["verdict"] == "inconclusive"]
    assert rows
    text = " ".join(result.stdout.split())
    for row in rows:
        assert row["reason"] in text


def test_the_outputs_are_the_table(cache, tmp_path):
    outputs = [tmp_path / name for name in ("t.parquet", "t.json", "t.csv")]
    options = [x for path in outputs for x in ("--out", path)]
    page = tmp_path / "claims.html"
    result = run("reproduce", KEY, *options, "--html", page, "--cache", cache, "-q")
    assert (result.exit_code, result.output) == (0, ""), result.output
    tables = [Table.read(path) for path in outputs]
    truth = running.reproduce(KEY, cache=cache)
    assert all(t.frame.equals(truth.frame) for t in tables)
    assert tables[0].provenance["command"].startswith("spectrank")
    assert tables[0].provenance["paper"]["key"] == KEY
    assert KEY in page.read_text(encoding="utf-8")


def test_the_seed_is_used(tmp_path):
    out = tmp_path / "t.json"
    assert run("reproduce", KEY, "--seed", "5", "--out", out, "-q").exit_code == 0
    assert json.loads(out.read_text(encoding="utf-8"))["provenance"]["seed"] == 5
    assert not Table.read(out).frame.equals(running.reproduce(KEY).frame)


def test_strict_needs_every_claim_reproduced(cache, monkeypatch):
    result = run("reproduce", KEY, "--cache", cache, "--strict", "-q")
    assert result.exit_code == 1
    real = running.reproduce

    def all_reproduced(*arguments, **options):
        import polars as pl

        table = real(*arguments, **options)
        verdict = pl.when(pl.col("kind") == "claim").then(pl.lit("reproduced"))
        frame = table.frame.with_columns(verdict=verdict)
        return Table(frame, table.provenance)

    monkeypatch.setattr("spectrank.experiments.reproduce", all_reproduced)
    result = run("reproduce", KEY, "--cache", cache, "--strict", "-q")
    assert result.exit_code == 0


def test_without_a_key_the_papers_alone_are_listed():
    for columns in (60, 140):
        result = run("reproduce", columns=columns)
        assert result.exit_code == 0, result.output
        text = " ".join(result.stdout.split())
        for paper in list_papers():
            assert paper.title in text
            for mode in ("quick", "full"):
                assert f"--{mode}: {len(paper.claims(mode))} claims" in text
        assert get_paper(KEY).claims("quick")[0].statement not in text
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= columns
        # A screen, whatever the papers claim.
        assert len(lines) <= 12 * len(list_papers())


def test_the_claims_of_a_paper_are_listed_and_not_run(monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("not to be run")

    monkeypatch.setattr("spectrank.experiments.reproduce", never)
    for columns in (60, 140):
        result = run("reproduce", KEY, "--claims", columns=columns)
        assert result.exit_code == 0, result.output
        text = " ".join(result.stdout.split())
        for claim in get_paper(KEY).claims("quick"):
            assert claim.statement in text
            assert claim.relation_text in text
        more = len(get_paper(KEY).claims("full")) - len(get_paper(KEY).claims("quick"))
        assert f"{more} more with --full" in text
        assert max(len(line) for line in result.stdout.splitlines()) <= columns


MISTAKES = [
    (["--html", "t.html"], "got none; name one"),
    (["--strict"], "got none; name one"),
    (["--claims"], "got none; name one"),
    ([KEY[:-1]], "did you mean 'georgiev2021stable'"),
    ([KEY, "--out", "t.xlsx"], ".parquet, .json or .csv"),
    ([KEY, "--out", "no/such/t.csv"], "existing, writable"),
    ([KEY, "--html", "t.txt"], "a page is an .html file"),
    ([KEY, "--html", "no/such/t.html"], "existing folder"),
    ([KEY, "--out", "t.csv", "--out", "./t.csv"], "of its own"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_told_before_anything_is_run(
    arguments, message, monkeypatch, tmp_path, capsys
):
    def never(*arguments, **options):
        raise AssertionError("not to be run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectrank.experiments.reproduce", never)
    monkeypatch.setattr(sys, "argv", ["spectrank", "reproduce", *arguments])
    with pytest.raises(SystemExit) as caught:
        app_module.main()
    assert caught.value.code == 2
    streams = capsys.readouterr()
    assert message in " ".join(streams.err.split())
    assert streams.out == ""


def test_missing_data_is_one_message_and_exit_code_2(monkeypatch, capsys):
    def absent(*arguments, **options):
        raise DataError("MNIST is read from mnist/x, which is nowhere; put it there")

    monkeypatch.setattr("spectrank.experiments.reproduce", absent)
    monkeypatch.setattr(sys, "argv", ["spectrank", "reproduce", KEY])
    with pytest.raises(SystemExit) as caught:
        app_module.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: MNIST is read from")


def test_the_real_process_lists_the_papers():
    result = subprocess.run(
        [sys.executable, "-m", "spectrank", "reproduce"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(KEY)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((1.98e-15, 1.84e-15, 2.12e-15), "1.98e-15 [1.84e-15, 2.12e-15]"),
        ((1.0437, 1.009, 1.078), "1.044 [1.009, 1.078]"),
        ((96.2, 80.0, 110.0), "96 [80, 110]"),
        ((0.00099951, 0.0009993, 0.00099972), "9.9951e-04 [9.9930e-04, 9.9972e-04]"),
    ],
)
def test_numbers_have_the_digits_of_their_interval(ends, text):
    value, lower, upper = ends
    row = {"value": value, "lower": lower, "upper": upper}
    assert reproduce_module._measured(row) == text
