"""The algorithms agree with a dense Jacobian by plain autograd, and with each other."""

import pytest
import torch
from ntk_models import MODELS, brute_force, make

from spectrank.ntk.empirical import empirical

# float64 sums of at most a few hundred products; the bound on agreement.
AGREEMENT = 1e-10
ANY = ("jacobian", "products", "auto")


def assert_close(found, truth):
    assert found.shape == truth.shape
    scale = float(truth.abs().max())
    assert float((found - truth).abs().max()) <= AGREEMENT * max(scale, 1.0)


@pytest.mark.parametrize("method", ANY)
@pytest.mark.parametrize("name", MODELS)
def test_every_algorithm_gives_the_kernel_of_the_dense_jacobian(name, method):
    model, x1, x2 = make(name)
    truth = brute_force(model, torch.cat([x1, x2]))
    n = len(x1)
    assert_close(empirical(model, x1, method=method), truth[:n, :n])
    for outputs in ("trace", "sum_logits"):
        found = empirical(model, x1, x2, outputs=outputs, method=method)
        pattern = "abii->ab" if outputs == "trace" else "abij->ab"
        assert_close(found, torch.einsum(pattern, truth[:n, n:]))


@pytest.mark.parametrize("method", ["jacobian", "products", "layerwise"])
@pytest.mark.parametrize("outputs", ["full", "trace", "sum_logits"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_kernel_of_one_set_is_symmetric_to_the_last_bit(name, outputs, method):
    model, x, _ = make(name, dtype=torch.float32)
    K = empirical(model, x, outputs=outputs, method=method, block=2)
    swapped = K.permute(1, 0, 3, 2) if K.ndim == 4 else K.T
    assert torch.equal(K, swapped)


@pytest.mark.parametrize("name", ["mlp", "encoder"])
def test_the_kernel_of_one_set_is_that_of_the_set_with_itself(name):
    model, x, _ = make(name)
    for outputs in ("full", "trace", "sum_logits"):
        found = empirical(model, x, outputs=outputs)
        assert_close(found, empirical(model, x, x.clone(), outputs=outputs))


@pytest.mark.parametrize("method", ANY)
def test_the_kernel_is_positive_semi_definite_to_rounding(method):
    model, x, _ = make("cnn")
    K = empirical(model, x, method=method)
    n, _, c, _ = K.shape
    eigenvalues = torch.linalg.eigvalsh(K.permute(0, 2, 1, 3).reshape(n * c, n * c))
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@pytest.mark.parametrize("method", ANY)
@pytest.mark.parametrize("name", ["shared", "encoder", "twice"])
def test_kernels_of_disjoint_parameters_add_up(name, method):
    model, x, _ = make(name)
    names = [n for n, _ in model.named_parameters()]
    sets = names[::2], names[1::2]
    parts = [empirical(model, x, params=s, method=method) for s in sets]
    assert_close(parts[0], brute_force(model, x, params=sets[0]))
    assert_close(sum(parts), empirical(model, x, method=method))


@pytest.mark.parametrize("method", ANY)
def test_the_kernel_permutes_with_the_samples(method):
    model, x, _ = make("cnn")
    order = torch.tensor([3, 0, 4, 1, 2])
    K = empirical(model, x, method=method, block=2)
    assert_close(empirical(model, x[order], method=method, block=2), K[order][:, order])


@pytest.mark.parametrize("method", ANY)
def test_frozen_parameters_count_only_where_they_are_named(method):
    model, x, _ = make("frozen")
    trained = empirical(model, x, method=method)
    assert_close(trained, brute_force(model, x))
    all_names = [n for n, _ in model.named_parameters()]
    everything = empirical(model, x, params="*", method=method)
    assert_close(everything, brute_force(model, x, params=all_names))
    assert float((everything - trained).abs().max()) > 1e-3
    assert not model[0].weight.requires_grad


def test_a_shared_parameter_is_found_under_each_of_its_names():
    model, x, _ = make("shared")
    by_first = empirical(model, x, params="first.weight")
    assert torch.equal(empirical(model, x, params="second.weight"), by_first)
    assert_close(by_first, brute_force(model, x, params=["first.weight"]))


def test_the_trace_is_the_plain_sum_over_outputs():
    model, x, _ = make("mlp")
    K = empirical(model, x, method="jacobian")
    trace = empirical(model, x, outputs="trace", method="jacobian")
    assert_close(trace, sum(K[:, :, i, i] for i in range(3)))


def test_a_linear_model_has_the_gram_of_its_inputs():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=g, dtype=torch.float64)
    model = torch.nn.Linear(4, 3).double()
    for method in (*ANY, "layerwise"):
        K = empirical(model, x, method=method)
        truth = torch.einsum("ab,ij->abij", x @ x.T + 1, torch.eye(3).double())
        assert_close(K, truth)


@pytest.mark.parametrize("method", ["jacobian", "products"])
@pytest.mark.parametrize("outputs", ["full", "trace", "sum_logits"])
def test_blocks_do_not_change_the_kernel(outputs, method):
    model, x1, x2 = make("mlp")
    options = {"outputs": outputs, "method": method}
    for second in (None, x2):
        truth = empirical(model, x1, second, block=5, **options)
        for block in (1, 3):
            found = empirical(model, x1, second, block=block, **options)
            assert_close(found, truth)
