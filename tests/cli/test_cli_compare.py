"""``spectrank compare``: what it prints at any width, writes, gates and refuses."""

import command
import pytest
import torch
from safetensors.torch import save_file

import spectrank as sr


def run(*arguments, columns=120):
    result = command.run("compare", *arguments, columns=columns)
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    g = torch.Generator().manual_seed(0)
    kept, little, much = (torch.randn(24, 16, generator=g) for _ in range(3))
    before = {"kept.weight": kept, "little.weight": little, "much.weight": much}
    moved = torch.randn(24, 16, generator=g)
    after = {
        "kept.weight": kept,
        "little.weight": little + 0.01 * moved,
        "much.weight": much + moved,
        "new.weight": moved,
    }
    save_file(before, folder / "before.safetensors")
    save_file(after, folder / "after.safetensors")
    return folder / "before.safetensors", folder / "after.safetensors"


@pytest.mark.parametrize("columns", ["40", "80", "120", "200"])
def test_the_matrix_that_moved_most_comes_first_at_any_width(pair, columns):
    code, out, _ = run(*pair, columns=columns)
    assert code == 0
    assert max(map(len, out.splitlines())) <= int(columns)
    assert out.index("much.weight") < out.index("little.weight")
    assert "new.weight: only in the second source" in " ".join(out.split())
    assert "3 compared, 1 identical, 1 without a partner" in " ".join(out.split())
    # What did not move needs no line of its own.
    assert "kept.weight" not in out


def test_a_gate_that_fails_is_exit_code_1_and_names_the_matrix(pair):
    code, _, err = run(*pair, "--fail-if", "relative_change>0.1", "-q")
    assert code == 1
    assert "much.weight: relative_change = " in err
    assert "little.weight" not in err
    code, _, err = run(*pair, "--fail-if", "kept*:relative_change>0", "-q")
    assert (code, err) == (0, "")


def test_what_is_asked_is_written(pair, tmp_path):
    out, page = tmp_path / "c.parquet", tmp_path / "c.html"
    code, _, err = run(*pair, "--out", out, "--html", page, "--metrics", "stable_rank")
    assert code == 0
    assert "c.parquet" in err.replace("\n", "")
    table = sr.Table.read(out)
    assert table.provenance["command"].startswith("spectrank compare")
    assert page.read_text().startswith("<!")
    names = set(table.where(kind="measurement").frame["metric"])
    assert {"stable_rank", "relative_change", "subspace_overlap"} <= names
    assert "effective_rank" not in names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-if", "relative_chnge>0"], "no metric is named 'relative_chnge'"),
        (["--rename", "x"], "a renaming reads AFTER=BEFORE"),
        (["--top", "0"], "top is a whole number from 1"),
        (["--select", "zzz*"], "'zzz*' matches none"),
    ],
)
def test_what_cannot_be_is_exit_code_2(pair, arguments, message):
    code, _, err = run(*pair, *arguments)
    assert code == 2
    assert message in " ".join(err.split())


def test_a_scan_refuses_the_gate_of_a_comparison(pair):
    result = command.run("scan", pair[0], "--fail-if", "relative_change>0.1")
    assert result.returncode == 2
    assert "use `spectrank compare`" in " ".join(result.stderr.split())
