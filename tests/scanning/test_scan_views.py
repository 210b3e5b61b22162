"""Views and unformed matrices as they reach the rows of a scan and the command line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import spectrank as sr
from spectrank.cli.app import app
from spectrank.errors import DomainError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 36, 2, bias=False),
    ).double()


def jacobian_of(layer: nn.Module, *shape: int) -> torch.Tensor:
    x = torch.zeros(1, *shape, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(layer, x)
    return found.reshape(-1, x.numel())  # type: ignore[union-attr]


def test_a_scan_measures_the_operators_of_its_convolutions() -> None:
    model = net()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    table = sr.scan(
        model,
        views="conv-operator",
        example_input=x,
        metrics="stable_rank,spectral_norm,condition_number",
    )
    views = dict(table.frame.select("subject", "view").unique().iter_rows())
    assert views == {
        "0.weight": "conv-operator",
        "2.weight": "conv-operator",
        "4.weight": "linear",
    }
    for name, channels in (("0", 3), ("2", 4)):
        truth = torch.linalg.svdvals(
            jacobian_of(model.get_submodule(name), channels, 6, 6)
        )
        expected = {
            "spectral_norm": truth[0],
            "stable_rank": (truth.norm() / truth[0]) ** 2,
            "condition_number": truth[0] / truth[-1],
        }
        for metric, value in expected.items():
            found = table.value(f"{name}.weight", metric)
            assert found == pytest.approx(float(value), rel=1e-6), metric
    # Entries that are stored, not those of operators that are never formed.
    assert table.provenance["num_parameters_measured"] == 108 + 36 + 288
    assert table.provenance["settings"]["views"] == "conv-operator"


def test_rows_of_one_tensor_are_told_apart_by_their_view() -> None:
    layer = nn.MultiheadAttention(6, 3, bias=False).double()
    table = sr.scan(layer, select="in_proj_weight", metrics="frobenius_norm")
    frame = table.where(kind="measurement").frame
    rows = {row["view"]: row for row in frame.iter_rows(named=True)}
    assert set(rows) == {"qkv.q", "qkv.k", "qkv.v"}
    for i, name in enumerate("qkv"):
        row = rows[f"qkv.{name}"]
        expected = layer.in_proj_weight.detach()[6 * i : 6 * (i + 1)].norm()
        assert row["value"] == pytest.approx(float(expected), rel=1e-12)
        assert (row["m"], row["n"], row["inferred"]) == (6, 6, False)


def test_a_product_whose_scale_is_unknown_says_so_in_its_rows() -> None:
    a, b = torch.randn(2, 9), torch.randn(7, 2)
    table = sr.scan(
        {"q.lora_A.weight": a, "q.lora_B.weight": b}, metrics="numerical_rank"
    )
    row = table.where(kind="measurement").frame.row(0, named=True)
    assert (row["subject"], row["view"], row["value"]) == (
        "q.lora.weight",
        "lora-product",
        2.0,
    )
    assert "taken as 1" in row["note"]
    skips = table.where(kind="skip").frame
    assert skips["subject"].to_list() == ["q.lora_A.weight", "q.lora_B.weight"]


def test_a_grouped_kernel_has_the_rank_of_its_blocks() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.ones_like(layer.weight))
    # Four equal blocks of rank one; unfolded, the rows are the same: rank one.
    blocks = sr.scan(layer, metrics="numerical_rank")
    assert blocks.value("weight", "numerical_rank") == 4.0
    unfolded = sr.scan(
        layer, metrics="numerical_rank", views={"weight": "conv-unfolded"}
    )
    assert unfolded.value("weight", "numerical_rank") == 1.0


def measured(file: Path) -> dict[str, float]:
    frame = sr.Table.read(file).where(kind="measurement").frame
    return {row["view"]: row["value"] for row in frame.iter_rows(named=True)}


def test_the_command_line_takes_a_layout_with_options_and_one_view_for_all(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    state = {"fc.weight": torch.randn(12, 4), "conv.weight": torch.randn(4, 3, 3, 3)}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    out = tmp_path / "out.parquet"
    common = ["scan", str(file), "--metrics", "frobenius_norm", "--out", str(out)]
    runner = CliRunner()
    layout = "fc.weight=qkv-interleaved:heads=2"
    result = runner.invoke(app, [*common, "--view", layout])
    assert result.exit_code == 0, result.output
    rows = measured(out)
    q = torch.cat([state["fc.weight"][0:2], state["fc.weight"][6:8]])
    assert rows["qkv.q"] == pytest.approx(float(q.double().norm()), rel=1e-6)
    out.unlink()
    view = "conv-operator:8x8:padding=circular"
    result = runner.invoke(app, [*common, "--view", view])
    assert result.exit_code == 0, result.output
    rows = measured(out)
    # Every tap meets every one of 64 inputs.
    expected = 8.0 * float(state["conv.weight"].double().norm())
    assert rows["conv-operator"] == pytest.approx(expected, rel=1e-6)
    assert "linear" in rows


def test_a_layout_for_all_is_refused_before_a_scan() -> None:
    with pytest.raises(DomainError, match="one that a tensor takes as a whole"):
        sr.scan({"w": torch.ones(9, 3)}, views="qkv")
