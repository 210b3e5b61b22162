"""Kernels in files, progress, and what is left of a run."""

import copy

import numpy as np
import pytest
import torch
from ntk_models import make
from torch import nn

from spectrank.ntk.empirical import empirical
from spectrank.ntk.operator import operator
from spectrank.ntk.plan import plan

METHODS = ("jacobian", "products", "auto")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_a_kernel_in_a_file_is_that_in_memory(tmp_path, outputs, method):
    model, x1, x2 = make("encoder" if method == "auto" else "mlp")
    path = tmp_path / "kernel.npy"
    for second in (None, x2):
        options = {"outputs": outputs, "method": method, "block": 2}
        truth = empirical(model, x1, second, **options)
        found = empirical(model, x1, second, out=path, **options)
        assert torch.equal(found, truth)
        on_disk = np.load(path)
        assert on_disk.dtype == np.float64
        assert np.array_equal(on_disk, truth.numpy())
    found.zero_()
    assert np.array_equal(np.load(path), truth.numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.npy"]


@pytest.mark.parametrize("method", ["jacobian", "products"])
def test_progress_counts_every_pair_of_blocks_once(method):
    model, x1, x2 = make("mlp")
    options = {"block": 2, "outputs": "full", "method": method, "memory": 10**6}
    seen = []
    empirical(model, x1, progress=lambda *a: seen.append(a), **options)
    # 5 samples in blocks of 2: three blocks, six pairs; with 3 others: 3 x 2.
    assert seen == [(method, i + 1, 6) for i in range(6)]
    seen.clear()
    empirical(model, x1, x2, progress=lambda *a: seen.append(a), **options)
    assert seen == [(method, i + 1, 6) for i in range(6)]


def test_progress_of_a_sum_over_algorithms_ends_for_each():
    model, x, _ = make("encoder")
    last = {}

    def note(route, done, total):
        assert done == last.get(route, (0, total))[0] + 1
        last[route] = (done, total)

    empirical(model, x, progress=note, block=2)
    assert len(last) == 2
    assert "layerwise" in last
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize("name", ["old_spectral_norm", "encoder"])
def test_the_model_and_the_random_state_are_left_as_they_were(name):
    model, x, _ = make(name)
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    state = copy.deepcopy(model.state_dict())
    before = {
        "flags": [m.training for m in model.modules()],
        "ids": [id(t) for t in (*model.parameters(), *model.buffers())],
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "vars": [sorted(vars(m)) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "fused": torch.backends.cuda.flash_sdp_enabled(),
        "grad mode": torch.is_grad_enabled(),
    }
    for method in METHODS:
        empirical(model, x, method=method)
    plan(model, x)
    operator(model, x) @ np.ones(len(x) * model(x).shape[1])
    after = {
        "flags": [m.training for m in model.modules()],
        "ids": [id(t) for t in (*model.parameters(), *model.buffers())],
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "vars": [sorted(vars(m)) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "fast": torch.backends.mha.get_fastpath_enabled(),
        "fused": torch.backends.cuda.flash_sdp_enabled(),
        "grad mode": torch.is_grad_enabled(),
    }
    assert after == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    for p in model.parameters():
        assert torch.equal(p.grad, torch.full_like(p, 3.0))


def test_a_kernel_has_no_history_and_works_without_grad_or_in_inference_mode():
    model, x, _ = make("encoder")
    truth = empirical(model, x)
    assert not truth.requires_grad
    with torch.no_grad():
        assert torch.equal(empirical(model, x), truth)
    with torch.inference_mode():
        assert torch.equal(empirical(model, x), truth)


def test_inputs_that_require_a_gradient_are_taken_as_numbers():
    model, x, _ = make("mlp")
    truth = empirical(model, x)
    x.requires_grad_()
    for method in METHODS:
        torch.testing.assert_close(empirical(model, x, method=method), truth)
    assert x.grad is None


def test_a_parameter_that_the_output_does_not_use_counts_nothing():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    model, x = Unused().double(), torch.ones(2, 3, dtype=torch.float64)
    for method in METHODS:
        assert not empirical(model, x, params="unused.*", method=method).any()
        K = empirical(model, x, method=method)
        assert torch.equal(K, torch.full((2, 2), 4.0)[..., None, None] * torch.eye(2))


def test_a_float32_kernel_is_the_float64_one_to_single_precision():
    model, x, _ = make("cnn")
    truth = empirical(model, x)
    single = model.float()
    for method in METHODS:
        found = empirical(single, x.float(), method=method)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth, rtol=1e-4, atol=1e-4)
