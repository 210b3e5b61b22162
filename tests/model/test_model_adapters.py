"""Low-rank adapters: one product of two factors, in modules, state dicts and files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spectrank.linalg import spectrum
from spectrank.linalg.implicit import FactorProduct
from spectrank.model import (
    Skip,
    WeightMatrix,
    describe,
    iter_matrices,
    iter_weights,
    weight_names,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def product(state: dict[str, Tensor], name: str) -> WeightMatrix:
    rows = {row.name: row for row in iter_weights(state)}
    row = rows[name]
    assert isinstance(row, WeightMatrix)
    assert row.view == "lora-product"
    return row


PEFT = "base_model.model.layers.0.q_proj"


def test_a_pair_of_factors_is_two_skips_and_their_product() -> None:
    a, b = drawn(3, 8), drawn(6, 3, seed=1)
    state = {f"{PEFT}.lora_A.weight": a, f"{PEFT}.lora_B.weight": b}
    rows = list(iter_weights(state))
    name = f"{PEFT}.lora.weight"
    assert [row.name for row in rows] == [*state, name] == list(weight_names(state))
    for row in rows[:2]:
        assert isinstance(row, Skip)
        assert row.reason == f"factor of the low-rank product {name}"
    row = rows[2]
    assert isinstance(row, WeightMatrix)
    assert (row.view, row.shape, row.num_entries) == ("lora-product", (6, 8), 42)
    assert row.inferred
    assert row.note is not None
    assert "alpha / r of the product is not in the source" in row.note
    assert isinstance(row.operand(), FactorProduct)
    assert torch.allclose(row.tensor(), b @ a, atol=1e-6)
    s = spectrum(row.operand())
    truth = torch.linalg.svdvals(b.double() @ a.double())
    assert s.sigma is not None
    assert torch.allclose(s.sigma, truth, atol=1e-12)
    assert s.sigma[3:].eq(0).all()
    assert describe(state).num_parameters == 42


@pytest.mark.parametrize(
    ("first", "second", "alpha", "name"),
    [
        (
            "unet_to_q.lora_down.weight",
            "unet_to_q.lora_up.weight",
            "unet_to_q.alpha",
            "unet_to_q.lora.weight",
        ),
        (
            "attn.to_q_lora.down.weight",
            "attn.to_q_lora.up.weight",
            None,
            "attn.to_q_lora.weight",
        ),
        ("lora_A.weight", "lora_B.weight", None, "lora.weight"),
        (
            "m.lora_A.default.weight",
            "m.lora_B.default.weight",
            None,
            "m.lora.default.weight",
        ),
        ("e.lora_embedding_A", "e.lora_embedding_B", None, "e.lora"),
    ],
)
def test_names_of_other_tools_are_known(
    first: str, second: str, alpha: str | None, name: str
) -> None:
    a, b = drawn(2, 5), drawn(4, 2, seed=1)
    state = {second: b, first: a}
    if alpha is not None:
        state[alpha] = torch.tensor(8.0)
    row = product(state, name)
    scale = 1.0 if alpha is None else 8.0 / 2
    expected = scale * (b @ a)
    # An embedding is shown with one row per entry.
    expected = expected.T if "embedding" in first else expected
    assert torch.allclose(row.tensor(), expected, atol=1e-5)
    assert (row.note is None) == (alpha is not None)
    assert row.inferred == (alpha is None)


def test_a_kernel_is_multiplied_as_it_is_unfolded() -> None:
    a, b = drawn(2, 3, 3, 3), drawn(4, 2, 1, 1, seed=1)
    row = product({"c.lora_A.weight": a, "c.lora_B.weight": b}, "c.lora.weight")
    # A convolution by A and then a pointwise one by B is one convolution.
    x = drawn(1, 3, 6, 6, seed=2)
    two = nn.functional.conv2d(nn.functional.conv2d(x, a), b)
    one = nn.functional.conv2d(x, row.tensor().reshape(4, 3, 3, 3))
    assert row.shape == (4, 27)
    assert torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize(
    "state",
    [
        {"m.lora_A.weight": drawn(3, 8)},
        {"m.lora_A.weight": drawn(3, 8), "m.lora_B.weight": drawn(6, 4)},
        {"m.lora_A.weight": drawn(3, 8), "m.lora_B.weight": drawn(6, 3, 1)},
        {"m.lora_A.weight": drawn(3, 8), "n.lora_B.weight": drawn(6, 3)},
        {"m.lora_A.weight": drawn(3, 4, 3), "m.lora_B.weight": drawn(6, 3, 3)},
    ],
)
def test_factors_without_a_partner_are_matrices_of_their_own(
    state: dict[str, Tensor],
) -> None:
    rows = list(iter_matrices(state))
    assert [row.name for row in rows] == list(state)
    assert all(row.view in {"linear", "conv-unfolded"} for row in rows)


def test_packed_factors_are_not_multiplied() -> None:
    state = {
        "m.lora_A.weight": drawn(3, 8),
        "m.lora_B.weight": torch.zeros(6, 3, dtype=torch.int8),
    }
    first, second = iter_weights(state)
    assert isinstance(first, WeightMatrix)
    assert isinstance(second, Skip)


@pytest.mark.parametrize("own", ["", "other."])
def test_rows_that_are_rescaled_are_noted(own: str) -> None:
    tensors = {
        "a.lora_A.weight": torch.ones(2, 4),
        "a.lora_B.weight": torch.ones(3, 2),
        f"a.{own}lora_magnitude_vector": torch.ones(3),
    }
    (row,) = [r for r in iter_weights(tensors) if isinstance(r, WeightMatrix)]
    assert row.view == "lora-product"
    assert ("rescales the rows" in str(row.note)) == (own == "")
    assert "taken as 1" in str(row.note)


def test_a_factor_can_be_had_all_the_same() -> None:
    state = {"m.lora_A.weight": drawn(3, 8), "m.lora_B.weight": drawn(6, 3)}
    rows = {row.name: row for row in iter_matrices(state, views={"*_A*": "linear"})}
    assert rows["m.lora_A.weight"].shape == (3, 8)
    assert len(list(iter_matrices(state, split=False))) == 2


def test_a_product_can_be_selected_without_its_factors(tmp_path: Path) -> None:
    state = {"m.lora_A.weight": drawn(3, 8), "m.lora_B.weight": drawn(6, 3)}
    save_file(state, tmp_path / "adapter_model.safetensors")
    (row,) = iter_matrices(tmp_path, select="*.lora.weight")
    expected = state["m.lora_B.weight"] @ state["m.lora_A.weight"]
    assert torch.allclose(row.tensor(), expected, atol=1e-6)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_the_product_of_peft_is_what_its_layer_adds(rank_stabilised: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft, an extra, is not installed")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 6), nn.Conv2d(3, 4, 3), nn.Embedding(7, 5))
    config = peft.LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=["0", "1", "2"],
        use_rslora=rank_stabilised,
        init_lora_weights=False,
    )
    model = peft.get_peft_model(base, config)
    rows = {row.name: row for row in iter_matrices(model) if row.view == "lora-product"}
    assert len(rows) == 3
    for path, layer in model.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            row = rows[f"{path}.lora.default{'' if path.endswith('2') else '.weight'}"]
            # One row per output, of an embedding one per entry: as the base weight.
            added = layer.get_delta_weight("default").detach()
            assert torch.allclose(row.tensor(), added.flatten(1), atol=1e-5)
            assert (row.note, row.inferred) == (None, False)


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_a_folder_of_peft_has_the_scale_of_its_configuration(
    rank_stabilised: bool, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft, an extra, is not installed")
    torch.manual_seed(0)
    base = nn.ModuleDict({"q_proj": nn.Linear(8, 6), "v_proj": nn.Linear(8, 6)})
    config = peft.LoraConfig(
        r=2,
        lora_alpha=8,
        rank_pattern={"v_proj": 3},
        alpha_pattern={"v_proj": 5},
        target_modules=["q_proj", "v_proj"],
        use_rslora=rank_stabilised,
        init_lora_weights=False,
    )
    model = peft.PeftModel(base, config)
    model.save_pretrained(tmp_path)
    rows = {row.name: row for row in iter_matrices(tmp_path)}
    assert len(rows) == 2
    for name in ("q_proj", "v_proj"):
        row = rows[f"base_model.model.{name}.lora.weight"]
        layer = model.get_submodule(f"base_model.model.{name}")
        added = layer.get_delta_weight("default").detach()
        assert torch.allclose(row.tensor(), added, atol=1e-5)
        assert row.note is None
    (tmp_path / "adapter_config.json").write_text("[broken")
    rows = {row.name: row for row in iter_matrices(tmp_path)}
    assert all(row.note for row in rows.values())
