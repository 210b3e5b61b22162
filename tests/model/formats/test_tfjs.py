"""TensorFlow.js models: layers run by that library, shards written by its converter."""

import base64
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_weights

HERE = Path(__file__).parent
LAYERS = json.loads((HERE / "tfjs_layers_golden.json").read_text())
SHARDS = json.loads((HERE / "tfjs_shards_golden.json").read_text())


def write(folder, topology, manifest, shards):
    folder.mkdir(exist_ok=True)
    model = {"modelTopology": topology, "weightsManifest": manifest}
    (folder / "model.json").write_text(json.dumps(model))
    for name, content in shards.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def layer(tmp_path):
    """Writes one layer as a model and gives its matrices by name and view."""

    def read(name):
        saved = LAYERS[name]
        manifest = [{"paths": ["w.bin"], "weights": saved["weights"]}]
        content = base64.b64decode(saved["data"])
        write(tmp_path, saved["modelTopology"], manifest, {"w.bin": content})
        rows = [r for r in iter_weights(tmp_path) if isinstance(r, WeightMatrix)]
        x, y = torch.tensor(saved["input"]), torch.tensor(saved["output"])
        return {(r.name.rpartition(".")[2], r.view): r for r in rows}, x, y, saved

    return read


def bias_of(saved):
    """The last weight of a layer, read without the code under test."""
    content = base64.b64decode(saved["data"])
    (size,) = saved["weights"][-1]["shape"]
    return torch.frombuffer(bytearray(content[-4 * size :]), dtype=torch.float32)


def channels_first(x):
    return x.movedim(-1, 1)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("conv1d", functional.conv1d),
        ("conv2d", functional.conv2d),
        ("conv3d", functional.conv3d),
    ],
)
def test_a_kernel_in_our_order_gives_what_the_layer_gives(layer, name, run):
    found, x, y, saved = layer(name)
    ((key, row),) = found.items()
    assert key == ("kernel", "conv-unfolded")
    ours = run(channels_first(x), row.load(), bias_of(saved))
    assert torch.allclose(ours, channels_first(y), atol=1e-5)
    assert row.shape == (ours.shape[1], math.prod(row.load().shape[1:]))


def test_a_transposed_kernel_takes_one_input_to_its_patch(layer):
    found, x, y, saved = layer("turned")
    row = found["kernel", "conv-transposed-unfolded"]
    ours = functional.conv_transpose2d(channels_first(x), row.load(), bias_of(saved))
    assert torch.allclose(ours, channels_first(y), atol=1e-5)


def test_a_depthwise_kernel_has_one_block_per_channel(layer):
    found, x, y, saved = layer("depthwise")
    row = found["depthwise_kernel", "conv-depthwise"]
    assert row.shape == (6, 3 * 6)
    ours = functional.conv2d(channels_first(x), row.load(), bias_of(saved), groups=3)
    assert torch.allclose(ours, channels_first(y), atol=1e-5)
    # The matrix itself on one patch, channel by channel.
    patch = channels_first(x)[0, :, :3, :2].reshape(-1)
    assert torch.allclose(row.tensor() @ patch + bias_of(saved), y[0, 0, 0], atol=1e-5)


def test_a_separable_layer_is_two_kernels(layer):
    found, x, y, saved = layer("separable")
    spatial = found["depthwise_kernel", "conv-depthwise"].load()
    mixing = found["pointwise_kernel", "conv-unfolded"].load()
    between = functional.conv2d(channels_first(x), spatial, groups=3)
    ours = functional.conv2d(between, mixing, bias_of(saved))
    assert torch.allclose(ours, channels_first(y), atol=1e-5)


def test_dense_layers_are_stored_inputs_first_and_tables_row_by_row(layer):
    found, x, y, saved = layer("dense")
    W = found["kernel", "linear-transposed"].tensor()
    assert torch.allclose(x @ W.T + bias_of(saved), y, atol=1e-5)
    found, x, y, _ = layer("embedding")
    table = found["embeddings", "embedding"].tensor()
    assert torch.equal(table[x.long()], y)


def gates_of(found, view, order):
    return [
        torch.cat([found[kernel, f"{view}.gate.{gate}"].tensor() for gate in order])
        for kernel in ("kernel", "recurrent_kernel")
    ]


@pytest.mark.parametrize(
    ("name", "module", "order"), [("lstm", torch.nn.LSTM, "ifgo"), ("rnn", None, "")]
)
def test_gates_in_the_order_of_torch_run_as_the_layer(layer, name, module, order):
    found, x, y, _ = layer(name)
    if module is None:
        kernels = [
            found[kernel, "linear-transposed"].tensor()
            for kernel in ("kernel", "recurrent_kernel")
        ]
        module = torch.nn.RNN
    else:
        kernels = gates_of(found, name, order)
    ours = module(5, 3, bias=False, batch_first=True)
    with torch.no_grad():
        ours.weight_ih_l0.copy_(kernels[0])
        ours.weight_hh_l0.copy_(kernels[1])
        assert torch.allclose(ours(x)[0], y, atol=1e-5)


def test_gates_of_gru_are_update_reset_and_candidate(layer):
    found, x, y, _ = layer("gru")
    kernels = gates_of(found, "gru", "zrn")
    (zx, rx, nx), (zh, rh, nh) = (kernel.split(3) for kernel in kernels)
    h = torch.zeros(1, 3)
    for step in range(x.shape[1]):
        inputs = x[:, step]
        z = torch.sigmoid(inputs @ zx.T + h @ zh.T)
        r = torch.sigmoid(inputs @ rx.T + h @ rh.T)
        # reset_after=False: the reset gate acts before the recurrent product.
        n = torch.tanh(inputs @ nx.T + (r * h) @ nh.T)
        h = z * h + (1 - z) * n
        assert torch.allclose(h, y[:, step], atol=1e-5)


def test_both_directions_are_found_under_their_own_names(layer, tmp_path):
    layer("bidirectional")
    rows = [r for r in iter_weights(tmp_path) if isinstance(r, WeightMatrix)]
    assert len(rows) == 16
    assert len({r.name for r in rows}) == 4
    assert {r.view for r in rows} == {f"lstm.gate.{g}" for g in "ifgo"}


@pytest.mark.parametrize("coding", sorted(SHARDS))
def test_shards_are_put_together_and_decoded_as_the_library_does(coding, tmp_path):
    saved = SHARDS[coding]
    shards = {name: base64.b64decode(text) for name, text in saved["shards"].items()}
    assert len(shards) > 1
    write(tmp_path, None, saved["manifest"], shards)
    rows = {row.name: row for row in iter_weights(tmp_path)}
    assert set(rows) == {name.replace("/", ".") for name in saved["values"]}
    for name in ("a.kernel", "b.kernel"):
        truth = torch.tensor(saved["values"][name.replace(".", "/")])
        row = rows[name]
        assert row.view == "linear-transposed"
        assert torch.equal(row.load(), truth)
        decoded = None if coding == "None" else f"decoded from {coding}"
        assert row.note == decoded
    assert describe(tmp_path).num_parameters == 5 * 3 + 3 + 3 * 4
    files = describe(tmp_path / "model.json").files
    assert {file.name for file in files} == {"model.json", *shards}
    assert describe(tmp_path / "model.json").kind == "tfjs"


def node(name, op, inputs=(), **attributes):
    attr = {key: {"b": value} for key, value in attributes.items()}
    return {"name": name, "op": op, "input": list(inputs), "attr": attr}


def graph_of(folder, nodes, weights):
    content = b"".join(w.contiguous().numpy().tobytes() for w in weights.values())
    specs = [
        {"name": name, "shape": list(w.shape), "dtype": "float32"}
        for name, w in weights.items()
    ]
    manifest = [{"paths": ["w"], "weights": specs}]
    write(folder, {"node": nodes}, manifest, {"w": content})
    return {row.name: row for row in iter_weights(folder)}


def test_the_operators_of_a_graph_tell_how_a_weight_is_stored(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "k": (3, 2, 4, 5),
        "d": (3, 2, 4, 2),
        "t": (3, 2, 5, 4),
        "m": (4, 6),
        "n": (6, 4),
        "left": (6, 4),
        "e": (9, 4),
        "s": (4, 4),
        "b": (5,),
    }
    weights = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    nodes = [
        *(node(name, "Const") for name in shapes),
        node("x", "Placeholder"),
        node("k/read", "Identity", ["k"]),
        node("1", "_FusedConv2D", ["x", "k/read:0", "b"]),
        node("2", "DepthwiseConv2dNative", ["x", "d"]),
        node("3", "Conv2DBackpropInput", ["x", "t", "x"]),
        node("4", "_FusedMatMul", ["x", "m"]),
        node("5", "MatMul", ["x", "n"], transpose_b=True),
        node("6", "MatMul", ["left", "x"]),
        node("7", "GatherV2", ["e", "x"]),
        node("8", "Mul", ["x", "s"]),
    ]
    rows = graph_of(tmp_path, nodes, weights)
    views = {n: r.view for n, r in rows.items() if isinstance(r, WeightMatrix)}
    assert views == {
        "k": "conv-unfolded",
        "d": "conv-depthwise",
        "t": "conv-transposed-unfolded",
        "m": "linear-transposed",
        "n": "linear",
        "left": "linear",
        "e": "embedding",
    }
    assert torch.equal(rows["k"].load(), weights["k"].permute(3, 2, 0, 1))
    assert torch.equal(rows["t"].load(), weights["t"].permute(3, 2, 0, 1))
    d = rows["d"].load()
    for c in range(4):
        for q in range(2):
            assert torch.equal(d[2 * c + q, 0], weights["d"][:, :, c, q])
    assert torch.equal(rows["m"].tensor(), weights["m"].T)
    assert "pass views={'s': 'linear'}" in rows["s"].reason


def test_a_weight_that_two_operators_read_differently_has_a_reason(tmp_path):
    nodes = [
        node("w", "Const"),
        node("1", "MatMul", ["x", "w"]),
        node("2", "MatMul", ["x", "w"], transpose_b=True),
    ]
    rows = graph_of(tmp_path, nodes, {"w": torch.ones(3, 3)})
    assert isinstance(rows["w"], Skip)


def test_what_lies_behind_strings_is_not_guessed(tmp_path):
    specs = [
        {"name": "a/kernel", "shape": [2, 1], "dtype": "float32"},
        {"name": "words", "shape": [1], "dtype": "string"},
        {"name": "b/kernel", "shape": [2, 1], "dtype": "float32"},
    ]
    manifest = [{"paths": ["w"], "weights": specs}]
    write(tmp_path, None, manifest, {"w": b"\0" * 30})
    rows = {row.name: row for row in iter_weights(tmp_path)}
    assert isinstance(rows["a.kernel"], WeightMatrix)
    assert rows["words"].reason == "strings"
    assert rows["b.kernel"].reason.startswith("it lies behind strings")


GOOD = {"name": "a/kernel", "shape": [2, 3], "dtype": "float32"}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({}, "no list"),
        ([{"paths": ["w"]}], "no list of weights"),
        ([{"paths": ["../w"], "weights": [GOOD]}], "inside its folder"),
        ([{"paths": ["/etc/passwd"], "weights": [GOOD]}], "inside its folder"),
        ([{"paths": ["missing"], "weights": [GOOD]}], "No such file"),
        ([{"paths": ["w"], "weights": [GOOD, GOOD]}], "ends at byte 48"),
        ([{"paths": ["w"], "weights": []}], "0 bytes, the shards 24"),
        ([{"paths": ["w"], "weights": [{**GOOD, "shape": [-1]}]}], "shape of"),
        ([{"paths": ["w"], "weights": [{**GOOD, "dtype": "int4"}]}], "type of"),
        (
            [
                {
                    "paths": ["w"],
                    "weights": [{**GOOD, "quantization": {"min": 10**400}}],
                }
            ],
            "too large",
        ),
        ([{"paths": ["w"], "weights": [{"shape": [2, 3]}]}], "has no name"),
    ],
)
def test_a_wrong_manifest_is_a_clear_error(manifest, message, tmp_path):
    write(tmp_path, None, manifest, {"w": b"\0" * 24})
    with pytest.raises(CheckpointError, match=message):
        iter_weights(tmp_path)


def test_names_that_fall_together_are_refused(tmp_path):
    specs = [{**GOOD, "name": name} for name in ("a/kernel", "a.kernel")]
    manifest = [{"paths": ["w"], "weights": specs}]
    write(tmp_path, None, manifest, {"w": b"\0" * 48})
    with pytest.raises(CheckpointError, match="each weight once"):
        iter_weights(tmp_path)


def test_a_shard_that_changes_is_noticed(tmp_path):
    manifest = [{"paths": ["w"], "weights": [GOOD]}]
    write(tmp_path, None, manifest, {"w": b"\0" * 24})
    (row,) = iter_weights(tmp_path)
    (tmp_path / "w").write_bytes(b"\0" * 23)
    with pytest.raises(CheckpointError, match="must not change"):
        row.tensor()


def test_other_json_files_are_no_weights(tmp_path):
    for text in ("{}", "[1]", "{", "[" * 5000):
        (tmp_path / "model.json").write_text(text)
        for path in (tmp_path, tmp_path / "model.json"):
            with pytest.raises(CheckpointError):
                iter_weights(path)
