"""The dtypes of files: loaded as stored, or a skip that says why not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectrank.model import Skip, describe, iter_matrices, iter_weights

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floating_dtypes_are_loaded_as_stored(
    tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    weight = torch.arange(6.0).reshape(2, 3).to(dtype)
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save({"a.weight": weight}, path)
    else:
        save_file({"a.weight": weight}, path)
    row = next(iter_matrices(path))
    assert row.dtype == row.tensor().dtype == dtype
    assert torch.equal(row.tensor().double(), weight.double())


def write_header(path: Path, code: str, num_bytes: int) -> Path:
    header = {"a": {"dtype": code, "shape": [8, 8], "data_offsets": [0, num_bytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * num_bytes)
    return path


@pytest.mark.parametrize(
    ("code", "bits", "reason"),
    [
        ("F4", 4, "dtype F4 has no counterpart in torch"),
        ("F6_E2M3", 6, "dtype F6_E2M3 has no counterpart in torch"),
        ("F6_E3M2", 6, "dtype F6_E3M2 has no counterpart in torch"),
        ("F8_E8M0", 8, "powers of two that scale other weights"),
        ("C64", 64, "complex tensor: only real weights are measured"),
        ("U8", 8, "integer tensor: quantised weights are not decoded"),
        ("U16", 16, "integer tensor, not a weight"),
        ("BOOL", 8, "boolean tensor, not a weight"),
    ],
)
def test_dtypes_that_are_no_weights_are_skips(
    tmp_path: Path, code: str, bits: int, reason: str
) -> None:
    path = write_header(tmp_path / "w.safetensors", code, 8 * bits)
    row = next(iter_weights(path, views={"a": "linear"}))
    assert isinstance(row, Skip)
    assert row.reason.startswith(reason)
    assert row.shape == (8, 8)
    assert describe(path).num_tensors == 1
