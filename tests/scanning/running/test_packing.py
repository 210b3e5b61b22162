"""Matrices as bytes: what arrives is what was sent, laid out as it was."""

import multiprocessing
import threading

import pytest
import torch

from spectrank.linalg.implicit import BlockDiagonal, FactorProduct
from spectrank.scanning.running.packing import digest, pack, receive, send, unpack


def matrix():
    return torch.randn(60, 40, generator=torch.Generator().manual_seed(1))


def over_a_pipe(message):
    here, there = multiprocessing.Pipe()
    # Larger than what a pipe buffers: the two ends have to work at once.
    thread = threading.Thread(target=send, args=(here, message))
    thread.start()
    found = receive(there)
    thread.join()
    here.close()
    there.close()
    return found


def packed(message):
    return unpack(pack(message))


W = matrix()
LAYOUTS = {
    "rows": W,
    "columns": W.T,
    "slice of rows": W[7:, :],
    "odd address": W.reshape(-1)[3:1203].reshape(30, 40),
    "half": W.bfloat16(),
    "quarter": W.to(torch.float8_e4m3fn).float(),
    "four axes": W.reshape(5, 12, 8, 5).permute(2, 0, 3, 1),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(W),
    "large": torch.ones(700, 300),
}


@pytest.mark.parametrize("way", [over_a_pipe, packed])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tensor_arrives_with_its_bits_strides_and_alignment(way, name):
    sent = LAYOUTS[name].detach()
    (got,) = way([LAYOUTS[name]])
    assert got.dtype == sent.dtype
    assert torch.equal(got, sent)
    assert not got.requires_grad
    if sent.numel():
        assert got.stride() == sent.stride()
        assert got.data_ptr() % 64 == sent.data_ptr() % 64
        assert got.untyped_storage().data_ptr() != sent.untyped_storage().data_ptr()


@pytest.mark.parametrize("way", [over_a_pipe, packed])
def test_structures_and_the_same_tensor_twice_arrive(way):
    both = FactorProduct(W, W.T, 0.5)
    got, again, (text, number) = way([both, W, ("x", 3)])
    assert torch.equal(got.left, W)
    assert torch.equal(got.right, W.T)
    assert (got.scale, got.gain, text, number) == (0.5, 0.5, "x", 3)
    assert torch.equal(again, W)


def test_a_sent_tensor_is_not_moved_into_shared_memory():
    fresh = matrix()
    before = fresh.data_ptr()
    over_a_pipe(fresh)
    assert not fresh.is_shared()
    assert fresh.data_ptr() == before


def test_equal_content_has_one_digest():
    again = digest([W.clone()])
    assert digest([W]) == again
    assert digest([W[7:].clone()]) == digest([W[7:]])
    assert digest([FactorProduct(W, W.T)]) == digest([FactorProduct(W.clone(), W.T)])


def test_other_content_has_another_digest():
    blocks = W.reshape(4, 15, 40)
    values = [
        [W],
        [W, W],
        [W + 1e-7],
        [W.T],
        [W.reshape(40, 60)],
        [W.double()],
        [W.view(torch.int32)],
        [-W],
        [W[:59]],
        [],
        [FactorProduct(W, W.T)],
        [FactorProduct(W, W.T, 2.0)],
        [BlockDiagonal(blocks)],
        [blocks],
        ["W", 1],
        ["W1"],
        ["W", [1]],
    ]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
