"""RandomMLP: laws of its layers, golden kernel moments, mean signal, requests."""

import math

import mpmath
import numpy as np
import pytest
import torch
from tolerances import FLOAT64, STANDARD_ERRORS
from torch import nn

from spectrank.errors import ArgumentTypeError, DomainError, UnknownNameError
from spectrank.linalg.ensembles import ensemble
from spectrank.linalg.ensembles.mp_spike import largest_reliable, largest_typical
from spectrank.random_nets import RandomMLP, activation_gain, mean_square

SEEDS = (1, 2, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stable_rank(W):
    s = torch.linalg.svdvals(W.double())
    return float((s / s[0]).square().sum())


# The recursion of S1 5.2, which reads widths and (a1, E a1^2, E a2) of every layer: its
# golden values hold only where the laws of all layers are right.


def _alpha_beta(n, q, a2):
    if n == 1:
        return q, 0.0
    b = (n * a2 - q) / (n * (n - 1) * (n + 2))
    return (q - 2 * n * b) / n**2, b


def _layer(t, n, q, a2):
    a, b = _alpha_beta(n, q, a2)
    return a * t[0] + 2 * b * t[1], (a + b) * t[1] + b * t[0]


def _mask(t, m):
    d = t[0]
    if m > 1:
        b = (m * t[1] - t[0]) / (m * (m - 1) * (m + 2))
        d = m * ((t[0] - 2 * m * b) / m**2 + 2 * b)
    return t[0] / 4 + d / 4, t[1] / 4 + d / 4


def kernel_moments(net):
    """E K and E K^2 of the tangent kernel at a unit input (ReLU)."""
    ns = list(net.widths)
    spec = [(law.a1, law.a1_squared, law.a2) for law in net.layers]
    L, c = len(ns) - 1, float(ns[-1])
    h2, h4, t = [1.0], [1.0], (1.0, 1.0)
    for j in range(1, L):
        a1, q, a2 = spec[j - 1]
        h2.append(h2[-1] * a1 / ns[j - 1] / 2)
        t = _mask(_layer(t, ns[j - 1], q, a2), ns[j])
        h4.append(t[0])
    d2, d4, t = {L: c}, {L: c * c}, (c * c, c)
    for j in range(L, 1, -1):
        a1, q, a2 = spec[j - 1]
        d2[j - 1] = d2[j] * a1 / ns[j] / 2
        t = _mask(_layer(t, ns[j], q, a2), ns[j - 1])
        d4[j - 1] = t[0]
    first = sum(h2[i - 1] * d2[i] for i in range(1, L + 1))
    second = sum(h4[i - 1] * d4[i] for i in range(1, L + 1))
    for i in range(1, L):
        n = ns[i]
        t = (n * (n + 1) / 4, n / 2)
        for k in range(i + 1, L + 1):
            if k > i + 1:
                _, q, a2 = spec[k - 2]
                t = _mask(_layer(t, ns[k - 2], q, a2), ns[k - 1])
            both = h4[i - 1] * spec[i - 1][0] / ns[i - 1] / ns[i]
            second += 2 * both * t[0] / ns[k - 1] * spec[k - 1][0] / ns[k] * d4[k]
    return first, second


@pytest.mark.parametrize(
    ("widths", "spectrum", "r", "first", "second"),
    [
        ([10, 16, 16, 16, 1], "flat", 4, 5.8, 71.06395061728404),
        ([10, 16, 16, 16, 1], "spike", 3, 5.8, 56.82091438344348),
    ],
)
def test_golden_kernel_moments_to_every_digit(widths, spectrum, r, first, second):
    found = kernel_moments(RandomMLP(widths, r, spectrum))
    assert found == pytest.approx((first, second), rel=FLOAT64)


@pytest.mark.parametrize(
    ("widths", "spectrum", "r", "first", "second"),
    [
        ([8, 12, 10, 3], "flat", 4, 11.25, 195.092198),
        ([8, 12, 10, 3], "spike", 3, 11.25, 178.000302),
        ([5, 9, 14, 7, 4], "flat", 4, 28.0, 1524.025171),
    ],
)
def test_golden_kernel_moments_of_several_outputs(widths, spectrum, r, first, second):
    found = kernel_moments(RandomMLP(widths, r, spectrum))
    assert found[0] == pytest.approx(first, rel=FLOAT64)
    assert found[1] == pytest.approx(second, abs=6e-7)


@pytest.mark.parametrize(
    ("widths", "spectrum", "r", "mean", "variance"),
    [
        ([10, 16, 16, 16, 1], "flat", 10, 5.8, 0.500),
        ([10, 16, 16, 16, 1], "spike", 4, 5.8, 0.544),
        ([10, 16, 16, 16, 1], "gaussian", None, 5.8, 0.815),
        ([6, 12, 20, 9, 14, 1], "flat", 3.5, 10.17, 2.08),
        ([6, 12, 20, 9, 14, 1], "spike", 3.5, 10.17, 1.127),
    ],
)
def test_golden_relative_variances(widths, spectrum, r, mean, variance):
    first, second = kernel_moments(RandomMLP(widths, r, spectrum))
    assert first == pytest.approx(mean, abs=0.005)
    assert second / first**2 - 1 == pytest.approx(variance, abs=0.005)


@pytest.mark.parametrize(
    ("n", "spectrum", "r", "variance"),
    [
        (64, "mp-spike", 4, 0.432),
        (64, "mp-spike", 8, 0.243),
        (256, "mp-spike", 4, 0.290),
        (256, "mp-spike", 16, 0.0600),
        (64, "orthogonal", None, 0.142),
        (256, "flat", 64, 0.0783),
        (256, "spike", 16, 0.0473),
    ],
)
def test_golden_table_of_depth_five(n, spectrum, r, variance):
    # S1 5.3: n_0 = n, scalar readout of fixed norm.
    first, second = kernel_moments(RandomMLP([n] * 5 + [1], r, spectrum))
    # The mp-spike column is of the limit of rho, 1 % off the exact one at 64.
    tolerance = 0.02 if spectrum == "mp-spike" else 3e-3
    assert second / first**2 - 1 == pytest.approx(variance, rel=tolerance)


def mean_squares(net, num, seed):
    """Squared norms after every layer over independent networks, x a fixed vector."""
    x = torch.arange(1.0, net.widths[0] + 1.0, dtype=torch.float64)
    h = (x / x.norm()).expand(num, -1).unsqueeze(-1)
    weights = net.sample_weights(generator(seed), num=num)
    values = []
    for i, W in enumerate(weights):
        h = W @ h
        if i < len(weights) - 1 and net.activation == "relu":
            h = h.clamp_min(0.0)
        if i < len(weights) - 1 and net.activation == "leaky_relu":
            h = torch.where(h > 0.0, h, 0.01 * h)
        values.append(h.square().sum((-2, -1)))
    return values


def broken_layers(net, values):
    wrong = []
    for i, (v, truth) in enumerate(zip(values, net.mean_signal(), strict=True)):
        error = float(v.std()) / math.sqrt(len(v))
        if abs(float(v.mean()) - truth) > STANDARD_ERRORS * error + FLOAT64:
            wrong.append(i)
    return wrong


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ["relu", "linear", "leaky_relu"])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("spectrum", ["flat", "mp-spike", "gaussian"])
def test_the_mean_signal_is_exact_in_every_layer(spectrum, norm, activation, seed):
    r = {"flat": 3.5, "mp-spike": 2.0, "gaussian": None}[spectrum]
    net = RandomMLP([10, 24, 12, 30, 7], r, spectrum, norm=norm, activation=activation)
    assert broken_layers(net, mean_squares(net, 1_500, seed)) == []


def dependence(weights):
    """Entries of two layers whose products do not average out by 4 standard errors."""
    first, second = weights
    found = []
    for i, j in ((0, 0), (0, 1), (2, 1), (5, 5)):
        product = first[:, i, j] * second[:, i, j]
        error = float(product.std()) / math.sqrt(len(product))
        if abs(float(product.mean())) > STANDARD_ERRORS * error:
            found.append((i, j))
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spectrum", ["flat", "mp-spike", "slice"])
def test_layers_are_independent(spectrum, seed):
    # The mean signal cannot tell: W (W x) has the mean of two independent layers.
    net = RandomMLP([6, 6, 6], 2.0, spectrum, activation="linear")
    weights = net.sample_weights(generator(seed), num=2_000)
    assert dependence(weights) == []
    assert len(dependence([weights[0], weights[0]])) == 4


def test_at_fixed_spectral_norm_the_mean_signal_is_linear_in_every_stable_rank():
    widths = [64, 64, 64, 64]
    ranks = (2.0, 4.0, 8.0)
    for spectrum in ("flat", "mp-spike", "power"):
        signals = [
            RandomMLP(widths, r, spectrum, norm="spectral").mean_signal() for r in ranks
        ]
        for layer in range(3):
            for a, b in ((0, 1), (1, 2)):
                slope = math.log2(signals[b][layer] / signals[a][layer])
                assert slope == pytest.approx(layer + 1, rel=FLOAT64)


def test_at_fixed_frobenius_norm_the_stable_rank_drops_out_of_the_mean():
    widths = [20, 30, 10]
    a = RandomMLP(widths, 2.0, "flat").mean_signal()
    b = RandomMLP(widths, 7.0, "power").mean_signal()
    assert a == pytest.approx(b, rel=FLOAT64)
    # He: E|h_1|^2 = m/n; the output, without a mask, has twice its share.
    assert a == pytest.approx((1.5, 1.0), rel=FLOAT64)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_other_activations_have_no_exact_mean_signal(activation):
    with pytest.raises(DomainError, match=f"got '{activation}'.*propagation"):
        RandomMLP([4, 5, 3], 2, "flat", activation=activation).mean_signal()


def test_layers_are_the_ensembles_at_their_scale():
    net = RandomMLP([20, 40, 30, 5], 4.5, "slice", gain=1.5)
    for law, (m, n) in zip(net.layers, [(40, 20), (30, 40), (5, 30)], strict=True):
        e = ensemble(m, n, stable_rank=4.5, spectrum="slice")
        assert (law.m, law.n, law.spectrum, law.stable_rank) == (m, n, "slice", 4.5)
        assert law.a1 == pytest.approx(2.25 * m, rel=FLOAT64)
        assert law.a1_squared == pytest.approx(law.a1**2, rel=FLOAT64)
        assert law.spectral_norm**2 * 4.5 == pytest.approx(law.a1, rel=FLOAT64)
        assert law.a2 == pytest.approx(law.spectral_norm**4 * e.moments.a2, rel=FLOAT64)
        assert law.participation_ratio == pytest.approx(e.participation_ratio)


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("spectrum", ["mp-spike", "slice", "flat", "exp", "temper"])
def test_sampled_weights_obey_the_laws_of_their_layers(spectrum, norm):
    net = RandomMLP([20, 40, 30, 5], 2.0, spectrum, norm=norm)
    for W, law in zip(net.sample_weights(generator()), net.layers, strict=True):
        assert W.shape == (law.m, law.n)
        assert stable_rank(W) == pytest.approx(law.stable_rank, rel=FLOAT64)
        top = float(torch.linalg.matrix_norm(W, 2))
        assert top == pytest.approx(law.spectral_norm, rel=FLOAT64)
        assert float(W.square().sum()) == pytest.approx(law.a1, rel=FLOAT64)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [("relu", math.sqrt(2)), ("linear", 1.0), ("tanh", 5 / 3), ("sigmoid", 1.0)],
)
def test_automatic_gains_are_those_of_torch(activation, gain):
    net = RandomMLP([6, 9, 4], 2, "flat", activation=activation)
    assert net.layers[0].a1 == pytest.approx(gain**2 * 9, rel=FLOAT64)
    assert gain == pytest.approx(nn.init.calculate_gain(activation))
    spectral = RandomMLP([6, 9, 4], 2, "flat", activation=activation, norm="spectral")
    norms = [law.spectral_norm for law in spectral.layers]
    truth = [gain * (1 + math.sqrt(9 / 6)), gain * (1 + math.sqrt(4 / 9))]
    assert norms == pytest.approx(truth, rel=FLOAT64)


def test_leaky_relu_has_the_gain_of_its_own_slope():
    net = RandomMLP([6, 9, 4], 2, "flat", activation="leaky_relu")
    gain = nn.init.calculate_gain("leaky_relu", 0.01)
    assert net.layers[0].a1 == pytest.approx(gain**2 * 9, rel=FLOAT64)
    assert net.sample(generator())[1].negative_slope == 0.01
    assert net.mean_signal()[0] == pytest.approx(9 / 6, rel=FLOAT64)


def test_the_default_spectral_norm_is_that_of_a_large_gaussian():
    net = RandomMLP([300, 500], 40, "flat", norm="spectral")
    he = torch.randn(500, 300, dtype=torch.float64, generator=generator())
    he *= math.sqrt(2 / 300)
    top = float(torch.linalg.matrix_norm(he, 2))
    assert net.layers[0].spectral_norm == pytest.approx(top, rel=0.02)


def test_values_may_differ_by_layer():
    net = RandomMLP(
        [6, 8, 8, 3],
        stable_rank=(2, 3.5, None),
        spectrum=("flat", "power", "orthogonal"),
        norm="spectral",
        sigma=(1.0, 2.0, 0.5),
    )
    laws = net.layers
    assert [law.stable_rank for law in laws] == pytest.approx([2, 3.5, 3], rel=FLOAT64)
    assert [law.spectral_norm for law in laws] == [1.0, 2.0, 0.5]
    shared = RandomMLP([6, 8, 3], 2.5, ("flat", "orthogonal"))
    assert [law.stable_rank for law in shared.layers] == [2.5, 3.0]
    sigma = RandomMLP([6, 8, 3], 2.5, "flat", norm="spectral", sigma=2.0)
    assert [law.spectral_norm for law in sigma.layers] == [2.0, 2.0]


def test_one_stable_rank_gives_way_where_a_layer_is_too_narrow():
    flat = RandomMLP([784, 64, 10, 1], 32, "flat")
    assert [law.stable_rank for law in flat.layers] == [32.0, 10.0, 1.0]
    spiked = RandomMLP([784, 512, 10, 1], 32)
    found = [law.stable_rank for law in spiked.layers]
    assert found == [32.0, largest_reliable(10, 512), 1.0]
    assert "stable_rank=32/6.62033/1" in repr(spiked)
    with pytest.raises(DomainError, match=r"stable_rank must lie in \[1, 10\].*got 32"):
        RandomMLP([784, 64, 10], (32, 32), "flat")


@pytest.mark.parametrize("spectrum", ["mp-spike", "flat", "slice"])
def test_a_larger_shared_stable_rank_never_gives_a_smaller_one(spectrum):
    widths = [128, 128, 10, 128]
    before = [1.0] * 3
    for r in (1, 2, 2.7, 3, 4.7, 4.8, 7, 7.2, 8, 9.9, 10, 11, 20, 28, 33):
        found = [law.stable_rank for law in RandomMLP(widths, r, spectrum).layers]
        pairs = zip(before, found, strict=True)
        assert all(a - FLOAT64 <= b <= r + FLOAT64 for a, b in pairs)
        before = found
    # 10 x 128 has a limit of 7.1: 8 and 11 are both beyond it, and both give way.
    narrow = [RandomMLP(widths, r).layers[1].stable_rank for r in (8, 11)]
    assert narrow == [largest_reliable(10, 128)] * 2


def test_a_stable_rank_that_no_layer_can_have_is_refused():
    with pytest.raises(DomainError, match=r"up to 17 on 64 x 64.*got 20"):
        RandomMLP([64, 64, 64], 20)
    with pytest.raises(DomainError, match=r"lie in \[1, 64\].*got 65"):
        RandomMLP([64, 64, 64], 65, "flat")
    # The limit of a draw itself is shared as what draws reliably reach.
    edge = RandomMLP([64, 64, 64], largest_typical(64, 64)).layers
    assert [law.stable_rank for law in edge] == [largest_reliable(64, 64)] * 2


def test_a_network_is_linear_modules_with_activations_between():
    net = RandomMLP([8, 16, 4, 2], 2, activation="tanh")
    model = net.sample(generator(5))
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert tuple(model.state_dict()) == net.parameter_names
    weights = net.sample_weights(generator(5))
    for module, W in zip(model[::2], weights, strict=True):
        assert module.bias is None
        assert torch.equal(module.weight, W)
        assert module.weight.requires_grad
        assert (module.in_features, module.out_features) == W.shape[::-1]
    x = torch.randn(3, 8, dtype=torch.float64, generator=generator(1))
    h = x
    for i, W in enumerate(weights):
        h = h @ W.T
        h = h.tanh() if i < 2 else h
    assert torch.allclose(model(x), h, atol=FLOAT64)
    linear = RandomMLP([8, 16, 4], 2, activation="linear")
    assert tuple(linear.sample(generator()).state_dict()) == linear.parameter_names
    assert len(linear.sample(generator())) == 2


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_other_activations_have_the_gain_of_mean_field(activation):
    phi = {"gelu": nn.functional.gelu, "silu": nn.functional.silu}[activation]
    # Gauss-Hermite, another rule than ours.
    z, w = np.polynomial.hermite_e.hermegauss(120)
    square = float((phi(torch.from_numpy(z)).square() * torch.from_numpy(w)).sum())
    gain = (square / math.sqrt(2 * math.pi)) ** -0.5
    net = RandomMLP([4, 5, 3], 2, "flat", activation=activation)
    assert net.layers[0].a1 == pytest.approx(gain**2 * 5, rel=1e-9)
    stated = RandomMLP([4, 5, 3], 2, "flat", activation=activation, gain=1.4)
    assert stated.layers[0].a1 == pytest.approx(1.96 * 5)
    by_sigma = {"norm": "spectral", "sigma": 1.0, "activation": activation}
    assert RandomMLP([4, 5, 3], 2, "flat", **by_sigma).layers[0].spectral_norm == 1.0
    assert net.sample(generator()).state_dict()


def truncated_moment(k, a, b):
    """E Z^k on [a, b], by mpmath."""
    density = mpmath.npdf
    return mpmath.quad(lambda z: z**k * density(z), [a, b])


def test_mean_squares_of_maps_with_kinks_are_exact():
    Phi = mpmath.ncdf
    # relu6: E min(max(Z, 0), 6)^2.
    relu6 = truncated_moment(2, 0, 6) + 36 * (1 - Phi(6))
    assert mean_square(nn.functional.relu6) == pytest.approx(float(relu6), rel=1e-12)
    # hardtanh: E min(|Z|, 1)^2.
    hard = 2 * truncated_moment(2, 0, 1) + 2 * (1 - Phi(1))
    found = activation_gain("hardtanh")
    assert found**-2 == pytest.approx(float(hard), rel=1e-12)
    assert mean_square(nn.functional.relu) == pytest.approx(0.5, rel=FLOAT64)
    assert mean_square(torch.abs) == pytest.approx(1.0, rel=FLOAT64)
    # SELU's constants are made for a mean square of one.
    assert activation_gain("selu") == pytest.approx(1.0, rel=1e-7)
    sine = activation_gain("sin")
    assert sine**-2 == pytest.approx((1 - math.exp(-2)) / 2, rel=FLOAT64)


def test_options_of_an_activation_count():
    assert activation_gain("leaky_relu", {"negative_slope": 0.3}) == pytest.approx(
        nn.init.calculate_gain("leaky_relu", 0.3)
    )
    assert activation_gain("elu", {"alpha": 0.2}) > activation_gain("elu")
    with pytest.raises(UnknownNameError, match="got 'swoosh'; pass gain as a number"):
        activation_gain("swoosh")
    with pytest.raises(DomainError, match=r"positive.*got 0\.0 for hardtanh"):
        activation_gain("hardtanh", {"min_val": 0.0, "max_val": 0.0})


def test_sampling_depends_on_the_generator_alone():
    net = RandomMLP([8, 16, 4], 2)
    before = torch.get_rng_state()
    a, b, c = (net.sample(generator(seed)) for seed in (1, 1, 2))
    x = torch.ones(1, 8, dtype=torch.float64)
    assert torch.equal(a(x), b(x))
    assert not torch.allclose(a(x), c(x))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_come_in_the_dtype_asked_for(dtype):
    net = RandomMLP([8, 16, 4], 2)
    assert {p.dtype for p in net.sample(generator(), dtype=dtype).parameters()} == {
        dtype
    }


def test_networks_drawn_at_once_are_stacked_by_layer():
    net = RandomMLP([8, 16, 4], 2)
    shapes = [tuple(W.shape) for W in net.sample_weights(generator(), num=5)]
    assert shapes == [(5, 16, 8), (5, 4, 16)]


def test_moments_are_computed_only_when_asked_for(monkeypatch):
    net = RandomMLP([4, 5, 3], 2, "temper")
    monkeypatch.setattr("spectrank.linalg.ensembles.temper.gaussian_log_values", None)
    net.sample(generator())
    assert net.mean_signal()[0] == pytest.approx(5 / 4)
    assert "temper" in repr(net)


def test_equal_requests_are_equal_networks():
    assert RandomMLP([4, 5, 3], 2) == RandomMLP((4, 5, 3), 2)
    assert hash(RandomMLP([4, 5, 3], 2)) == hash(RandomMLP((4, 5, 3), 2))
    assert RandomMLP([4, 5, 3], 2) != RandomMLP([4, 5, 3], 1.9)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"widths": [4]}, DomainError, r"at least two, got \[4\]"),
        ({"widths": [4, 0, 3]}, DomainError, "a width must be at least 1, got 0"),
        (
            {"widths": [4, 2.0]},
            ArgumentTypeError,
            r"a width is a whole number, got 2\.",
        ),
        ({"widths": 4}, ArgumentTypeError, "widths is a sequence.*got 4"),
        ({"widths": "44"}, ArgumentTypeError, "widths is a sequence.*got '44'"),
        ({"stable_rank": 0.5}, DomainError, "got 0.5"),
        ({"stable_rank": math.nan}, DomainError, "got nan"),
        ({"stable_rank": math.inf}, DomainError, "got inf"),
        ({"stable_rank": None}, ArgumentTypeError, "needs a stable_rank"),
        ({"stable_rank": "2"}, ArgumentTypeError, "got '2'"),
        ({"stable_rank": (2, 2, 2)}, DomainError, r"one per layer \(2 here\), got 3"),
        ({"spectrum": ("flat",)}, DomainError, "spectrum is one value.*got 1"),
        ({"spectrum": "flta"}, UnknownNameError, "mean 'flat'"),
        (
            {"spectrum": "gaussian"},
            DomainError,
            "random stable rank, got stable_rank=2",
        ),
        ({"spectrum": "orthogonal"}, DomainError, "got stable_rank=2"),
        ({"norm": "nuclear"}, UnknownNameError, "norm is one of frobenius, spectral"),
        ({"activation": "relu6"}, UnknownNameError, "activation is one of relu"),
        ({"sigma": 1.0}, DomainError, "sigma=1.0 with norm='frobenius'"),
        ({"sigma": 1.0, "norm": "spectral", "gain": 2.0}, DomainError, "gain=2.0"),
        ({"sigma": (1.0,), "norm": "spectral"}, DomainError, "sigma is one value"),
        ({"sigma": -1.0, "norm": "spectral"}, DomainError, "sigma must be positive"),
        ({"gain": 0.0}, DomainError, "gain must be positive"),
        ({"gain": "he"}, ArgumentTypeError, "gain is a positive number, got 'he'"),
    ],
)
def test_bad_requests_are_refused_when_the_network_is_made(arguments, kind, message):
    with pytest.raises(kind, match=message):
        RandomMLP(**({"widths": [4, 5, 3], "stable_rank": 2} | arguments))
