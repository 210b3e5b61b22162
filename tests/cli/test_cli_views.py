"""The catalogue of views is the whole of what a scan takes."""

import json

import pytest
from typer.testing import CliRunner

from spectrank.cli import views
from spectrank.cli.app import app
from spectrank.model import LAYOUTS, VIEWS


def test_every_view_and_layout_is_listed_once_with_its_options():
    result = CliRunner().invoke(app, ["views", "--json"])
    assert result.exit_code == 0
    entries = json.loads(result.stdout)
    names = [entry["name"] for entry in entries]
    swapped = [f"{e['name']}-transposed" for e in entries if e.get("transposed")]
    assert sorted([*names, *swapped]) == sorted([*VIEWS, *LAYOUTS])
    for entry in entries:
        if entry["name"] in LAYOUTS:
            assert tuple(entry["options"]) == LAYOUTS[entry["name"]].options


def test_every_option_is_explained():
    known = {option for layout in LAYOUTS.values() for option in layout.options}
    assert known == set(views._OPTIONS)


@pytest.mark.parametrize("width", [40, 100])
def test_the_list_fits_its_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    result = CliRunner().invoke(app, ["views"])
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= width
    assert "qkv-interleaved[-transposed]" in lines
    assert any("each=head, a matrix per head" in line for line in lines)
