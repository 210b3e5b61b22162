"""ONNX files: orientations and scales checked by running the graph elsewhere."""

import warnings

import numpy as np
import pytest
import torch

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, describe, iter_weights

onnx = pytest.importorskip("onnx", reason="extra 'onnx'")
ort = pytest.importorskip("onnxruntime", reason="runs the graphs of these tests")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
RNG = np.random.default_rng(0)


def model_of(nodes, initialisers, inputs, outputs, **graph):
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(x, name) for name, x in initialisers.items()],
        **graph,
    )
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(made, opset_imports=opset, ir_version=10)


def run(path, **inputs):
    # As written: its own rewriting multiplies codes in eight bits.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def matrix_of(path, name):
    (row,) = [r for r in iter_weights(path) if r.name == name]
    assert isinstance(row, WeightMatrix), row
    return row


@pytest.mark.parametrize(
    ("nodes", "shape", "view"),
    [
        ([("Gemm", ["x", "w"], ["y"], {"transB": 1})], (3, 5), "linear"),
        ([("Gemm", ["x", "w"], ["y"], {})], (5, 3), "linear-transposed"),
        ([("MatMul", ["x", "w"], ["y"], {})], (5, 3), "linear-transposed"),
        (
            [
                ("Transpose", ["w"], ["v"], {"perm": [1, 0]}),
                ("MatMul", ["x", "v"], ["y"], {}),
            ],
            (3, 5),
            "linear",
        ),
        (
            [("Identity", ["w"], ["v"], {}), ("MatMul", ["x", "v"], ["y"], {})],
            (5, 3),
            "linear-transposed",
        ),
    ],
)
def test_a_matrix_takes_inputs_to_outputs(tmp_path, nodes, shape, view):
    w = RNG.standard_normal(shape).astype(np.float32)
    made = [helper.make_node(kind, i, o, **a) for kind, i, o, a in nodes]
    path = tmp_path / "m.onnx"
    onnx.save(model_of(made, {"w": w}, {"x": (2, 5)}, ["y"]), path)
    row = matrix_of(path, "w")
    assert (row.view, row.shape, row.inferred) == (view, (3, 5), False)
    x = RNG.standard_normal((2, 5)).astype(np.float32)
    y = x @ row.tensor().numpy().T
    assert np.allclose(run(path, x=x), y, rtol=1e-5, atol=1e-5)


def test_a_matrix_on_the_left_has_its_outputs_as_rows(tmp_path):
    w = RNG.standard_normal((3, 5)).astype(np.float32)
    path = tmp_path / "m.onnx"
    node = helper.make_node("MatMul", ["w", "x"], ["y"])
    onnx.save(model_of([node], {"w": w}, {"x": (5, 2)}, ["y"]), path)
    row = matrix_of(path, "w")
    x = RNG.standard_normal((5, 2)).astype(np.float32)
    assert np.allclose(run(path, x=x), row.tensor().numpy() @ x, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_kernels_know_their_groups_and_tables_are_embeddings(tmp_path, groups):
    k = RNG.standard_normal((4, 6 // groups, 3, 3)).astype(np.float32)
    table = RNG.standard_normal((7, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["y"], group=groups),
        helper.make_node("Gather", ["table", "i"], ["z"]),
    ]
    path = tmp_path / "m.onnx"
    i = np.array([1, 2])
    model = model_of(
        nodes, {"k": k, "table": table, "i": i}, {"x": (1, 6, 5, 5)}, ["y"]
    )
    onnx.save(model, path)
    row = matrix_of(path, "k")
    assert row.view == ("conv-unfolded" if groups == 1 else "conv-grouped")
    assert row.shape == (4, 6 * 9)
    # One output position: the matrix on the patch.
    x = RNG.standard_normal((1, 6, 5, 5)).astype(np.float32)
    y = row.tensor().numpy() @ x[0, :, :3, :3].reshape(-1)
    assert np.allclose(run(path, x=x)[0, :, 0, 0], y, atol=1e-4)
    assert matrix_of(path, "table").view == "embedding"


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("zero", [False, True])
def test_dequantised_weights_are_those_that_the_graph_uses(tmp_path, axis, zero):
    w = RNG.integers(-100, 100, (5, 3)).astype(np.int8)
    count = () if axis is None else (w.shape[axis],)
    scale = RNG.uniform(0.01, 0.1, count).astype(np.float32)
    point = RNG.integers(-5, 5, count).astype(np.int8)
    inputs = ["w", "s", "z"] if zero else ["w", "s"]
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["v"], **attributes),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    path = tmp_path / "m.onnx"
    tensors = {"w": w, "s": np.asarray(scale)} | (
        {"z": np.asarray(point)} if zero else {}
    )
    onnx.save(model_of(nodes, tensors, {"x": (2, 5)}, ["y"]), path)
    row = matrix_of(path, "w")
    assert row.view == "linear-transposed"
    assert row.note.startswith("decoded from int8")
    x = RNG.standard_normal((2, 5)).astype(np.float32)
    y = x @ row.tensor().numpy().T
    assert np.allclose(run(path, x=x), y, rtol=1e-4, atol=1e-4)


def test_blocks_of_four_bits_are_decoded_as_the_graph_decodes_them(tmp_path):
    w = RNG.integers(-8, 8, (8, 6))
    scale = RNG.uniform(0.1, 0.2, (2, 6)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"], axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    model = model_of(nodes, {"s": scale}, {"x": (2, 8)}, ["y"])
    flat = w.ravel().tolist()
    packed = helper.make_tensor("w", onnx.TensorProto.INT4, w.shape, flat)
    model.graph.initializer.append(packed)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    truth = w * np.repeat(scale, 4, axis=0)
    row = matrix_of(path, "w")
    assert np.allclose(row.tensor().numpy(), truth.T, rtol=1e-6)
    x = RNG.standard_normal((2, 8)).astype(np.float32)
    assert np.allclose(run(path, x=x), x @ truth, atol=1e-4)


def test_a_model_quantised_by_the_runtime_is_close_to_the_original(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    w = RNG.standard_normal((32, 16)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    plain, small = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(model_of([node], {"w": w}, {"x": (2, 32)}, ["y"]), plain)
    quantization.quantize_dynamic(plain, small)
    (row,) = [r for r in iter_weights(small) if isinstance(r, WeightMatrix)]
    assert row.view == "linear-transposed"
    error = np.abs(row.tensor().numpy().T - w).max()
    # Symmetric: 127 steps to the largest.
    assert 0 < error <= 0.51 * np.abs(w).max() / 127


def test_external_data_constants_and_inner_graphs_are_read(tmp_path):
    w = RNG.standard_normal((5, 3)).astype(np.float32)
    c = RNG.standard_normal((3, 4)).astype(np.float32)
    inner = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["h", f"{name}_w"], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(k * np.eye(4, dtype=np.float32), f"{name}_w")],
        )
        for k, name in ((2.0, "yes"), (3.0, "no"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["g"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(c)),
        helper.make_node("MatMul", ["g", "c"], ["h"]),
        helper.make_node(
            "If", ["b"], ["y"], then_branch=inner["yes"], else_branch=inner["no"]
        ),
    ]
    model = model_of(nodes, {"w": w, "b": np.array(True)}, {"x": (2, 5)}, ["y"])
    path = tmp_path / "m.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="m.bin", size_threshold=0
    )
    rows = {r.name: r for r in iter_weights(path) if isinstance(r, WeightMatrix)}
    assert set(rows) == {"w", "c", "yes_w", "no_w"}
    assert np.array_equal(rows["w"].tensor().numpy(), w.T)
    assert np.array_equal(rows["c"].tensor().numpy(), c.T)
    assert torch.equal(rows["no_w"].tensor(), 3 * torch.eye(4))
    assert {r.view for r in rows.values()} == {"linear-transposed"}
    assert describe(path).kind == "onnx"


def test_data_outside_the_folder_are_refused(tmp_path):
    w = RNG.standard_normal((5, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(w.tobytes())
    model = model_of([node], {"w": w}, {"x": (2, 5)}, ["y"])
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    path = inside / "m.onnx"
    path.write_bytes(model.SerializeToString())
    (row,) = iter_weights(path)
    with pytest.raises(CheckpointError, match="must be readable"):
        row.tensor()


RECURRENT = {
    "LSTM": (4, "ifgo", torch.nn.LSTM),
    "GRU": (3, "rzn", torch.nn.GRU),
    "RNN": (1, "", torch.nn.RNN),
}


def recurrent_file(path, kind, directions, **more):
    gates = RECURRENT[kind][0]
    shapes = {
        "w": (directions, 4 * gates, 3),
        "r": (directions, 4 * gates, 4),
        "b": (directions, 8 * gates),
    }
    if kind == "LSTM":
        shapes |= {"h": (directions, 1, 4), "c": (directions, 1, 4)}
        shapes |= {"p": (directions, 12)}
    tensors = {
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    inputs = ["x", "w", "r", "b", "", "h", "c", "p"][: 8 if kind == "LSTM" else 4]
    # Peepholes are not torch's: they are there to be told apart, and are zero.
    if "p" in tensors:
        tensors["p"][:] = 0
    direction = "bidirectional" if directions == 2 else "forward"
    made = dict(hidden_size=4, direction=direction, **more)
    node = helper.make_node(kind, inputs, ["y"], **made)
    onnx.save(model_of([node], tensors, {"x": (5, 1, 3)}, ["y"]), path)
    return tensors


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", sorted(RECURRENT))
def test_gates_in_the_order_of_torch_run_as_the_graph(tmp_path, kind, directions):
    path = tmp_path / "m.onnx"
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    tensors = recurrent_file(path, kind, directions, **more)
    rows = {(r.name, r.view): r for r in iter_weights(path) if not isinstance(r, Skip)}
    gates, order, module = RECURRENT[kind]
    ours = module(3, 4, bidirectional=directions == 2)
    for d, end in list(enumerate(("", "_reverse")))[:directions]:
        side = ".reverse" if d else ""
        for name, local in (("w", "weight_ih"), ("r", "weight_hh")):
            views = [f"{kind.lower()}.gate.{gate}" for gate in order] or ["linear"]
            parts = [rows[name, view + side].tensor() for view in views]
            getattr(ours, f"{local}_l0{end}").data = torch.cat(parts)
        # The order of the biases is that of the gates: i o f c, z r h.
        stored = {"LSTM": "iofg", "GRU": "zrn", "RNN": "-"}[kind]
        blocks = torch.tensor(tensors["b"][d]).reshape(2, gates, 4)
        chosen = [stored.index(gate) for gate in order or "-"]
        for half, local in enumerate(("bias_ih", "bias_hh")):
            getattr(ours, f"{local}_l0{end}").data = blocks[half, chosen].flatten()
    x = RNG.standard_normal((5, 1, 3)).astype(np.float32)
    states = [torch.tensor(tensors[n]) for n in "hc" if n in tensors]
    with torch.no_grad():
        y = ours(torch.tensor(x), *([tuple(states)] if states else []))[0]
    # (steps, directions, batch, hidden) there, directions side by side here.
    theirs = torch.tensor(run(path, x=x)).movedim(1, 2).flatten(2)
    assert torch.allclose(theirs, y, atol=1e-5)


def test_other_inputs_of_a_recurrent_operator_are_no_matrices(tmp_path):
    path = tmp_path / "m.onnx"
    recurrent_file(path, "LSTM", 1)
    reasons = {r.name: r.reason for r in iter_weights(path) if isinstance(r, Skip)}
    assert set(reasons) == {"b", "h", "c", "p"}
    assert reasons["b"] == "biases of an ONNX LSTM, not a matrix"
    assert reasons["p"] == "peepholes of an ONNX LSTM, not a matrix"
    whole = {r.name: r for r in iter_weights(path, split=False)}
    assert isinstance(whole["w"], Skip)
    assert "pass views={'w': 'experts'}" in whole["w"].reason
    asked = iter_weights(path, views={"w": "experts"})
    assert [r.shape for r in asked if r.name == "w"] == [(16, 3)]


def test_a_module_exported_by_torch_has_its_own_gates(tmp_path):
    path = tmp_path / "m.onnx"
    torch.manual_seed(0)
    module = torch.nn.LSTM(3, 4, bidirectional=True).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.randn(5, 1, 3),), str(path), dynamo=False, verbose=False
        )
    ours = sorted(
        (r.tensor() for r in iter_weights(module) if isinstance(r, WeightMatrix)),
        key=lambda w: float(w.double().sum()),
    )
    theirs = sorted(
        (r.tensor() for r in iter_weights(path) if isinstance(r, WeightMatrix)),
        key=lambda w: float(w.double().sum()),
    )
    assert len(ours) == len(theirs) == 16
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_name_that_is_no_text_is_a_clear_error(tmp_path):
    w = np.ones((5, 3), dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([node], {"weight_of_it": w}, {"x": (2, 5)}, ["y"])
    content = model.SerializeToString().replace(b"weight_of_it", b"weight_of_\xf1t")
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a model"):
        iter_weights(path)


def test_an_empty_file_says_so(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is empty: fetch it again"):
        iter_weights(path)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x08\x07\x12\xff"])
def test_damage_is_a_clear_error(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        list(iter_weights(path))
