"""Packed weights of MatMulNBits: ONNX Runtime runs the operator on the same codes."""

import numpy as np
import pytest
import torch

from spectrank.errors import CheckpointError
from spectrank.model import Skip, WeightMatrix, iter_weights

onnx = pytest.importorskip("onnx", reason="extra 'onnx'")
ort = pytest.importorskip("onnxruntime", reason="runs the graphs of these tests")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def write(path, bits, zero, *, inputs=40, change=None):
    """One operator with 6 outputs in blocks of 16; the last block is padded."""
    rng = np.random.default_rng(bits)
    outputs, block = 6, 16
    number = -(-inputs // block)
    tensors = {
        "w": rng.integers(0, 256, (outputs, number, block * bits // 8), np.uint8),
        "s": rng.uniform(0.1, 0.2, outputs * number).astype(np.float32),
    }
    if zero == "packed":
        width = -(-number * bits // 8)
        tensors["z"] = rng.integers(0, 256, outputs * width, np.uint8)
    if zero == "numbers":
        tensors["z"] = rng.uniform(0, 15, outputs * number).astype(np.float32)
    tensors = (change or dict)(tensors)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s", *(["z"] if "z" in tensors else [])],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=block,
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", onnx.TensorProto.FLOAT, (inputs, inputs))],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(x, name) for name, x in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, path)
    return inputs


@pytest.mark.parametrize(
    ("bits", "zero"),
    [(4, None), (4, "packed"), (4, "numbers"), (8, None), (8, "packed")],
)
def test_the_weight_is_what_the_operator_multiplies_with(tmp_path, bits, zero):
    path = tmp_path / "m.onnx"
    inputs = write(path, bits, zero)
    (row,) = [r for r in iter_weights(path) if isinstance(r, WeightMatrix)]
    assert (row.name, row.view, row.shape) == ("w", "linear", (6, inputs))
    assert row.note == f"decoded from MatMulNBits, {bits} bits, blocks of 16"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.eye(inputs, dtype=np.float32)})
    W = row.tensor()
    assert torch.allclose(torch.tensor(y).T, W, rtol=1e-4, atol=1e-4)
    reasons = {r.name: r.reason for r in iter_weights(path) if isinstance(r, Skip)}
    assert "w" not in reasons


def test_the_first_code_is_in_the_lower_half(tmp_path):
    path = tmp_path / "m.onnx"
    tensors = {}
    write(path, 4, None, change=lambda found: tensors.update(found) or found)
    (row,) = [r for r in iter_weights(path) if isinstance(r, WeightMatrix)]
    for n, k in [(0, 0), (0, 1), (5, 39), (3, 17)]:
        byte = int(tensors["w"][n, k // 16, k % 16 // 2])
        code = byte >> 4 if k % 2 else byte & 15
        truth = np.float32(code - 8) * tensors["s"].reshape(6, 3)[n, k // 16]
        assert float(row.tensor()[n, k]) == pytest.approx(float(truth), rel=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"w": t["w"][:, :2]},
        lambda t: {k: v for k, v in t.items() if k != "s"},
    ],
    ids=["shape", "no scales"],
)
def test_codes_that_do_not_fit_are_a_skip(tmp_path, change):
    path = tmp_path / "m.onnx"
    write(path, 4, None, change=change)
    (row,) = [r for r in iter_weights(path) if r.name == "w"]
    assert isinstance(row, Skip)
    assert "quantised weights are not decoded" in row.reason


def test_what_the_runtime_cannot_run_is_a_skip(tmp_path):
    path = tmp_path / "m.onnx"
    write(path, 8, "numbers")
    (row,) = [r for r in iter_weights(path) if r.name == "w"]
    assert isinstance(row, Skip)


@pytest.mark.parametrize("name", ["s", "z"])
def test_too_few_scales_or_zero_points_are_an_error(tmp_path, name):
    path = tmp_path / "m.onnx"
    write(path, 4, "packed", change=lambda t: t | {name: t[name][:-1]})
    (row,) = [r for r in iter_weights(path) if r.name == "w"]
    with pytest.raises(CheckpointError, match="one scale and zero point per block"):
        row.tensor()
