"""Damage at random: rows or a CheckpointError, never another exception."""

import io
from pathlib import Path

import pytest
import torch
from damaged import read_all
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from spectrank.errors import CheckpointError
from spectrank.model import iter_weights

TENSORS = {f"layer.{i}.weight": torch.arange(20.0).reshape(4, 5) + i for i in range(3)}
SAFETENSORS = save(TENSORS)


def pickled(loaded: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(loaded, buffer)
    return buffer.getvalue()


PICKLED = pickled(TENSORS)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    suffix=st.sampled_from(["safetensors", "pt"]),
    place=st.floats(0, 1, exclude_max=True),
    in_head=st.booleans(),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_never_gives_another_error(
    scratch: Path, suffix: str, place: float, in_head: bool, bit: int
) -> None:
    content = bytearray(SAFETENSORS if suffix == "safetensors" else PICKLED)
    # Half of the flips go where the structure is: header or pickle, and directory.
    span = 300 if in_head else len(content)
    content[int(place * span)] ^= 1 << bit
    path = scratch / f"w.{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(content))
    read_all(path)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    suffix=st.sampled_from(["safetensors", "pt"]),
    start=st.sampled_from(
        [b"", b"PK\x03\x04", b"\x80\x02", b"\x10" + b"\0" * 7 + b"{"]
    ),
    noise=st.binary(max_size=64),
)
def test_noise_is_always_a_checkpoint_error(
    scratch: Path, suffix: str, start: bytes, noise: bytes
) -> None:
    path = scratch / f"n.{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(start + noise)
    with pytest.raises(CheckpointError):
        iter_weights(path)
