"""IDX files: what the header says is what is read, and hostile files are refused."""

import gzip
import struct

import numpy as np
import pytest
import torch

from spectrank.experiments.data import DataError
from spectrank.experiments.data.idx import parse_idx, unpacked


def idx_bytes(array, code=8):
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


ARRAY = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)


def test_the_last_index_is_the_fastest_and_the_first_counts_the_samples():
    found = parse_idx(idx_bytes(ARRAY), "x")
    assert found.dtype == torch.uint8
    assert found.shape == (2, 3, 5)
    assert torch.equal(found, torch.from_numpy(ARRAY))
    assert found[1, 0, 4] == 19


def test_the_result_owns_its_memory():
    raw = bytearray(idx_bytes(ARRAY))
    found = parse_idx(bytes(raw), "x")
    found[0, 0, 0] = 255
    assert parse_idx(bytes(raw), "x")[0, 0, 0] == 0


@pytest.mark.parametrize("length", range(len(idx_bytes(ARRAY))))
def test_every_truncation_is_refused(length):
    with pytest.raises(DataError, match=r"two zero bytes|it is truncated"):
        parse_idx(idx_bytes(ARRAY)[:length], "x")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG" + bytes(40), "two zero bytes"),
        (idx_bytes(ARRAY, code=13), "type 13"),
        (idx_bytes(ARRAY) + b"\0", "truncated or damaged"),
        (struct.pack(">HBB", 0, 8, 0), "at least 1"),
        (struct.pack(">HBBI", 0, 8, 1, 0), "truncated or damaged"),
        # 2^32 x 2^32 is 0 in 64-bit arithmetic, 65536 x 65536 in 32-bit.
        (struct.pack(">HBB4I", 0, 8, 4, 1 << 31, 1 << 31, 4, 1), "1844674407370"),
        (struct.pack(">HBB2I", 0, 8, 2, 1 << 16, 1 << 16), "4294967308"),
        (struct.pack(">HBB", 0, 8, 255), "truncated"),
    ],
)
def test_a_wrong_header_is_refused_before_anything_is_allocated(raw, message):
    with pytest.raises(DataError, match=message):
        parse_idx(raw, "x")


def test_the_number_of_dimensions_tells_images_from_labels():
    with pytest.raises(DataError, match=r"must have 1 dimensions.*swapped"):
        parse_idx(idx_bytes(ARRAY), "labels", num_dims=1)


def test_gzip_is_unpacked_and_plain_bytes_are_kept():
    raw = idx_bytes(ARRAY)
    assert unpacked(gzip.compress(raw), "x") == raw
    assert unpacked(raw, "x") == raw


@pytest.mark.parametrize("cut", [3, 12, 30])
def test_a_cut_gzip_stream_is_refused(cut):
    with pytest.raises(DataError, match="whole gzip file"):
        unpacked(gzip.compress(idx_bytes(ARRAY))[:cut], "x")


def test_a_damaged_gzip_stream_is_refused():
    raw = bytearray(gzip.compress(idx_bytes(ARRAY)))
    raw[-6] ^= 1
    with pytest.raises(DataError, match="whole gzip file"):
        unpacked(bytes(raw), "x")


def test_a_gzip_bomb_stops_at_the_limit():
    with pytest.raises(DataError, match="at most 1000 bytes"):
        unpacked(gzip.compress(bytes(1 << 24)), "x", limit=1000)
    assert len(unpacked(gzip.compress(bytes(1000)), "x", limit=1000)) == 1000
