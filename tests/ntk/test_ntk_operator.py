"""The matrix-free operator against the dense kernel of a plain Jacobian."""

import numpy as np
import pytest
import torch
from ntk_models import brute_force, make
from scipy.sparse.linalg import eigsh
from torch import nn

from spectrank.ntk.operator import operator

NAMES = ("cnn", "shared", "encoder", "lstm", "no_forward_mode")


def dense(model, x, outputs):
    K = brute_force(model, x, outputs=outputs)
    n, c = K.shape[0], K.shape[-1]
    if outputs == "full":
        return K.permute(0, 2, 1, 3).reshape(n * c, n * c).numpy()
    return K.numpy()


@pytest.mark.parametrize("outputs", ["full", "trace", "sum_logits"])
@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_dense_kernel(name, outputs):
    model, x, _ = make(name)
    K = dense(model, x, outputs)
    op = operator(model, x, outputs=outputs)
    assert op.shape == K.shape
    assert op.dtype == np.float64
    V = np.random.default_rng(0).standard_normal((len(K), 3))
    scale = np.abs(K).sum()
    assert np.abs(op @ V - K @ V).max() <= 1e-10 * scale
    assert np.abs(op @ V[:, 0] - K @ V[:, 0]).max() <= 1e-10 * scale
    assert np.abs(op.T @ V - K @ V).max() <= 1e-10 * scale
    assert np.abs(op.rmatvec(V[:, 1]) - K @ V[:, 1]).max() <= 1e-10 * scale


@pytest.mark.parametrize("block", [2, 9])
def test_blocks_of_samples_do_not_change_a_product(block):
    model, x, _ = make("mlp")
    K = dense(model, x, "full")
    found = operator(model, x, block=block, memory=10**4) @ np.eye(len(K))
    assert np.abs(found - K).max() <= 1e-10 * np.abs(K).max()


def test_the_largest_eigenvalues_are_those_of_the_dense_kernel():
    model, x, _ = make("cnn")
    K = dense(model, x, "full")
    start = np.random.default_rng(1).standard_normal(len(K))
    found = eigsh(operator(model, x), k=4, v0=start, return_eigenvectors=False)
    truth = np.linalg.eigvalsh(K)[-4:]
    assert np.abs(np.sort(found) - truth).max() <= 1e-9 * truth[-1]


def test_the_operator_follows_the_parameters():
    model, x, _ = make("mlp")
    op = operator(model, x, outputs="trace")
    with torch.no_grad():
        model[0].weight.mul_(2.0)
    K = dense(model, x, "trace")
    assert np.abs(op @ np.eye(len(K)) - K).max() <= 1e-10 * np.abs(K).max()


def test_the_operator_takes_chosen_parameters():
    model, x, _ = make("mlp")
    K = brute_force(model, x, params=["0.weight"], outputs="trace").numpy()
    op = operator(model, x, outputs="trace", params="0.w*")
    assert np.abs(op @ np.eye(len(K)) - K).max() <= 1e-10 * np.abs(K).max()


def test_a_float32_model_gives_float64_vectors_good_to_single_precision():
    model, x, _ = make("mlp")
    K = dense(model, x, "full")
    found = operator(model.float(), x.float()) @ np.eye(len(K))
    assert found.dtype == np.float64
    error = np.abs(found - K).max() / np.abs(K).max()
    assert 0.0 < error < 1e-5


def test_the_operator_serves_a_kernel_that_no_memory_holds():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 4, generator=g, dtype=torch.float64)
    op = operator(nn.Linear(4, 3).double(), x)
    v = np.random.default_rng(0).standard_normal((50_000, 3))
    # K is (x x^T + 1) on each output: 180 GB in full.
    truth = x.numpy() @ (x.numpy().T @ v) + v.sum(0)
    found = (op @ v.ravel()).reshape(50_000, 3)
    assert op.shape == (150_000, 150_000)
    assert np.abs(found - truth).max() <= 1e-12 * np.abs(truth).max()
