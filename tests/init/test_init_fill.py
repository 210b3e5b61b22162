"""stable_rank_ and adjust_: spectra, norms, kernels, precisions, where it writes."""

import math

import pytest
import torch
from filled import filled, generator, stable_rank, values
from tolerances import FLOAT64, STANDARD_ERRORS
from torch import nn

from spectrank.init import adjust_, stable_rank_

SEEDS = (1, 2, 3)
DTYPES = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-2,
}
FREE = ("mp-spike", "slice", "temper", "flat", "spike", "power", "exp")


# The stable rank.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (40, 40)])
@pytest.mark.parametrize("spectrum", FREE)
def test_the_stable_rank_is_as_asked(spectrum, shape, dtype):
    for r in (1.0, 3.7):
        W = filled(shape, r, spectrum=spectrum, dtype=dtype)
        assert stable_rank(W) == pytest.approx(r, rel=DTYPES[dtype])
    by_share = filled(shape, fraction=0.125, spectrum=spectrum, dtype=dtype)
    target = min(shape) / 8
    assert stable_rank(by_share) == pytest.approx(target, rel=DTYPES[dtype])


def test_a_share_below_one_singular_value_means_one():
    assert stable_rank(filled((5, 9), fraction=0.1, spectrum="exp")) == 1.0


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_vectors_have_stable_rank_one_and_the_norm_asked_for(shape):
    for spectrum in FREE:
        W = filled(shape, 1, spectrum=spectrum, gain=3.0)
        assert float(W.square().sum()) == pytest.approx(9.0 * shape[0], rel=FLOAT64)


def test_shapes_that_bring_their_own_stable_rank():
    Q = filled((20, 12), spectrum="orthogonal", gain=1.0)
    assert torch.allclose(Q.T @ Q, 20 / 12 * torch.eye(12, dtype=Q.dtype))
    W = filled((9, 12), profile=[4.0, 2.0, 2.0], norm="spectral", sigma=2.0)
    assert values(W).tolist() == pytest.approx([2.0, 1.0, 1.0] + [0.0] * 6, abs=1e-12)
    G = filled((300, 200), spectrum="gaussian", gain="linear")
    error = math.sqrt(2.0 / G.numel())
    assert float(G.square().mean()) * 200 == pytest.approx(1.0, abs=4 * error)
    kurtosis = float((G * math.sqrt(200)).pow(4).mean())
    assert kurtosis == pytest.approx(3.0, abs=4 * math.sqrt(96 / G.numel()))


def test_other_numbers_come_from_another_seed():
    a, b = filled((8, 8), 2.5, seed=1), filled((8, 8), 2.5, seed=2)
    assert not torch.allclose(a, b)
    assert torch.equal(a, filled((8, 8), 2.5, seed=1))


# The scale, against torch's own fans.


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (12, 5, 3), (8, 3, 3, 5)])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_frobenius_norms_are_those_of_he_lecun_and_glorot(mode, shape):
    fans = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    fan = {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2}[mode]
    for gain, number in (("relu", math.sqrt(2)), ("linear", 1.0), (0.3, 0.3)):
        W = filled(shape, 2.0, spectrum="flat", mode=mode, gain=gain)
        variance = float(W.square().mean())
        assert variance == pytest.approx(number**2 / fan, rel=1e-11)


def test_the_table_of_scales():
    # S1 2.3 at m = 12, n = 30: He 2m, LeCun m, backward 2n, Glorot 2mn/(m+n).
    cases = (
        ({}, 24.0),
        ({"gain": "linear"}, 12.0),
        ({"mode": "fan_out"}, 60.0),
        ({"mode": "fan_avg", "gain": 1.0}, 720.0 / 42.0),
    )
    for options, a1 in cases:
        W = filled((12, 30), 3.5, spectrum="flat", **options)
        assert float(W.square().sum()) == pytest.approx(a1, rel=1e-11)
        assert float(values(W)[0] ** 2) == pytest.approx(a1 / 3.5, rel=1e-11)


def test_activations_have_the_gains_of_torch():
    for name in ("relu", "linear", "tanh", "sigmoid", "leaky_relu"):
        W = filled((12, 30), 3.5, gain=name, spectrum="flat")
        truth = nn.init.calculate_gain(name) * math.sqrt(12)
        assert float(W.norm()) == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("spectrum", FREE)
def test_the_spectral_norm_is_as_asked(spectrum):
    W = filled((24, 30), 2.0, spectrum=spectrum, norm="spectral", sigma=0.7)
    assert float(values(W)[0]) == pytest.approx(0.7, rel=1e-11)
    W = filled((24, 30), 2.0, spectrum=spectrum, norm="spectral")
    he = math.sqrt(2) * (1 + math.sqrt(24 / 30))
    assert float(values(W)[0]) == pytest.approx(he, rel=1e-11)
    W = filled((24, 30), 2.0, spectrum=spectrum, norm="spectral", mode="fan_out")
    back = math.sqrt(2) * (1 + math.sqrt(30 / 24))
    assert float(values(W)[0]) == pytest.approx(back, rel=1e-11)


def test_the_default_spectral_norm_is_that_of_a_large_gaussian():
    top = float(values(filled((400, 300), 9.0, norm="spectral"))[0])
    he = torch.randn(400, 300, generator=generator(1)) * math.sqrt(2 / 300)
    assert top == pytest.approx(float(values(he)[0]), rel=0.03)


@pytest.mark.parametrize("r", [1.0, 2.5, 5.0])
def test_depth_critical_falls_with_the_root_of_the_stable_rank(r):
    critical = {"norm": "spectral", "sigma": "depth-critical"}
    W = filled((24, 30), r, spectrum="flat", **critical)
    assert float(values(W)[0]) == pytest.approx(math.sqrt(48 / r), rel=1e-11)
    assert torch.equal(W, filled((24, 30), r, spectrum="flat"))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("shape", "options", "factor"),
    [
        ((24, 9), {}, 1.0),
        ((7, 18), {"spectrum": "flat"}, 1.0),
        ((8, 8), {"norm": "spectral", "sigma": "depth-critical"}, 1.0),
        ((8, 8), {"norm": "spectral", "sigma": 2.0}, 2.0**2 * 2 / (2 * 8)),
    ],
)
def test_the_mean_signal_per_neuron_is_kept_through_relu(shape, options, factor, seed):
    g, (m, n) = generator(seed), shape
    x = torch.linspace(-1.0, 2.0, n, dtype=torch.float64)
    # Groups of one kernel are independent draws of one law.
    kernel = torch.empty(1_500 * m, n, 1, dtype=torch.float64)
    stable_rank_(kernel, 2.0, groups=1_500, generator=g, **options)
    h = (kernel.reshape(-1, m, n) @ x).clamp_min(0.0)
    ratios = h.square().mean(-1) / x.square().mean()
    error = float(ratios.std()) / math.sqrt(len(ratios))
    assert abs(float(ratios.mean()) - factor) <= STANDARD_ERRORS * error


# Kernels.


def test_strides_do_not_matter():
    plain = filled((8, 4, 3, 3), 2.5, seed=4)
    strided = torch.empty(8, 4, 3, 3, dtype=torch.float64)
    strided = strided.to(memory_format=torch.channels_last)
    stable_rank_(strided, 2.5, generator=generator(4))
    assert torch.equal(strided, plain)
    turned = torch.zeros(30, 20, dtype=torch.float64).T
    stable_rank_(turned, 2.5, generator=generator(4))
    assert torch.equal(turned, filled((20, 30), 2.5, seed=4))
    box = torch.zeros(40, 60, dtype=torch.float64)
    stable_rank_(box[::2, ::2], 2.5, generator=generator(4))
    assert torch.equal(box[::2, ::2], turned)
    assert not bool(box[1::2].any())


def test_a_parameter_stays_a_leaf_without_a_graph():
    layer = nn.Linear(12, 8)
    weight = layer.weight
    weight.grad = torch.ones_like(weight)
    version = weight._version
    assert stable_rank_(weight, 2.0) is weight
    assert weight.is_leaf
    assert weight.requires_grad
    assert weight._version > version
    assert torch.equal(weight.grad, torch.ones_like(weight))
    with torch.inference_mode():
        inner = torch.zeros(6, 6)
        stable_rank_(inner, 2.0)
        assert bool(inner.any())


def test_the_global_state_is_used_only_without_a_generator():
    before = torch.get_rng_state()
    filled((8, 8), 2.5)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        a = stable_rank_(torch.empty(8, 8), 2.5)
        after = torch.get_rng_state()
        assert not torch.equal(after, before)
        b = stable_rank_(torch.empty(8, 8), 2.5)
        torch.manual_seed(5)
        assert torch.equal(stable_rank_(torch.empty(8, 8), 2.5), a)
        assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(a, b)
    c = stable_rank_(torch.empty(8, 8), 2.5, generator=generator(5))
    assert torch.equal(a, c)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tensor_on_cuda_is_filled_there():
    for dtype, tolerance in DTYPES.items():
        W = torch.empty(64, 32, dtype=dtype, device="cuda")
        stable_rank_(W, 3.0, generator=generator(1))
        assert stable_rank(W.cpu()) == pytest.approx(3.0, rel=tolerance)
        # Drawn on the generator's device: one state, one matrix, but for rounding.
        here = filled((64, 32), 3.0, dtype=dtype, seed=1)
        assert torch.allclose(W.cpu().double(), here.double(), atol=tolerance)
    with torch.random.fork_rng(["cuda"]):
        torch.cuda.manual_seed(5)
        host = torch.get_rng_state()
        a = stable_rank_(torch.empty(8, 8, device="cuda"), 2.5)
        assert torch.equal(torch.get_rng_state(), host)
        torch.cuda.manual_seed(5)
        b = stable_rank_(torch.empty(8, 8, device="cuda"), 2.5)
    assert torch.equal(a, b)


# adjust_: the numbers are tested in tests/linalg/test_stable_rank.py.


def test_adjusting_changes_every_group_in_place():
    kernel = torch.randn(8, 3, 5, dtype=torch.float64, generator=generator(1))
    before = kernel.clone()
    assert adjust_(kernel, 1.6, groups=2) is kernel
    for half, old in zip(
        kernel.reshape(2, 4, 15), before.reshape(2, 4, 15), strict=True
    ):
        assert stable_rank(half) == pytest.approx(1.6, rel=1e-10)
        U, _, Vh = torch.linalg.svd(old, full_matrices=False)
        image = U.T @ half @ Vh.T
        assert torch.allclose(image, image.diagonal().diag(), atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adjusting_keeps_the_precision_and_the_graph_free(dtype):
    W = nn.Parameter(torch.randn(12, 20, generator=generator(2)).to(dtype))
    top = float(values(W)[0])
    adjust_(W, 8.0, method="clip", norm="keep-spectral")
    assert W.is_leaf
    assert W.dtype == dtype
    assert stable_rank(W) == pytest.approx(8.0, rel=max(DTYPES[dtype], 1e-6))
    assert float(values(W)[0]) == pytest.approx(top, rel=max(DTYPES[dtype], 1e-6))
