"""A scan with an input also says which layer feeds which."""

import pytest
import torch
from torch import nn

import spectrank as sr
from spectrank.errors import ArgumentTypeError


def test_the_table_carries_the_wiring_of_a_module_that_got_an_input(tmp_path):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    table = sr.scan(model, metrics="stable_rank", example_input=torch.ones(2, 6))
    wiring = table.provenance["graph"]
    names = {node["id"]: node["name"] for node in wiring["nodes"]}
    links = [
        (names[link["source"]], names[link["target"]], link["through"])
        for link in wiring["links"]
    ]
    assert links == [("input", "0", []), ("0", "2", ["relu"]), ("2", "output", [])]
    table.write(tmp_path / "scan.parquet")
    assert sr.Table.read(tmp_path / "scan.parquet").provenance["graph"] == wiring


def test_without_an_input_there_is_no_wiring():
    assert "graph" not in sr.scan(nn.Linear(3, 2), metrics="stable_rank").provenance


def test_a_source_that_cannot_run_takes_no_input():
    with pytest.raises(ArgumentTypeError, match="needs a module that can be traced"):
        sr.scan({"w": torch.eye(3)}, example_input=torch.ones(1, 3))
