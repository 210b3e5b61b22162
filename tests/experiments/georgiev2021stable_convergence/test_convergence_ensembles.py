"""Arms: weights as asked, the same first weight and readout in all, pairs."""

import math

import numpy as np
import pytest
import torch

from spectrank.experiments.georgiev2021stable.convergence.design import (
    LIKE_GAUSSIAN,
    cells,
    like_gaussian,
)
from spectrank.experiments.georgiev2021stable.convergence.ensembles import (
    Arm,
    cnn,
    grid,
    mlp,
    spike_with_participation_ratio,
)

FLOAT32 = 2e-4
STREAM = (5, "cell", "fresh")


def squares(W):
    """Squared singular values of each matrix, by numpy in float64."""
    flat = W.reshape(W.shape[0], W.shape[1], -1).double().numpy()
    return np.linalg.svd(flat, compute_uv=False) ** 2


def hidden_squares(arm, network, num=3):
    found = network.sample(arm, num, *STREAM)
    return {
        layer.name: squares(found[f"{layer.name}.weight"])
        for layer in network.layers
        if layer.role == "hidden"
    }


@pytest.mark.parametrize("spectrum", ["flat", "spike", "slice", "mp-spike"])
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_hidden_weights_have_the_stable_rank_and_the_norm_of_the_arm(spectrum, norm):
    n, fraction = 32, 1 / 8
    network = mlp(20, n, 4, 10)
    for t in hidden_squares(Arm(spectrum, fraction, norm), network).values():
        np.testing.assert_allclose(t.sum(1) / t[:, 0], fraction * n, rtol=FLOAT32)
        if norm == "frobenius":
            np.testing.assert_allclose(t.sum(1), 2.0 * n, rtol=FLOAT32)
        else:
            np.testing.assert_allclose(t[:, 0], 8.0, rtol=FLOAT32)


def test_orthogonal_weights_are_orthogonal_at_either_scale():
    network = mlp(20, 16, 3, 10)
    (he,) = hidden_squares(Arm("orthogonal"), network).values()
    (wide,) = hidden_squares(Arm("orthogonal", None, "spectral"), network).values()
    np.testing.assert_allclose(he, 2.0, rtol=FLOAT32)
    np.testing.assert_allclose(wide, 8.0, rtol=FLOAT32)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaussian_weights_have_he_s_variance_and_the_readout_one_over_n(seed):
    n = 64
    found = mlp(48, n, 3, 10).sample(Arm("gaussian"), 40, seed, "x")
    for name, variance in (("0", 2 / 48), ("2", 2 / n), ("4", 1 / n)):
        W = found[f"{name}.weight"].double()
        count = W.numel()
        # The sample mean of W^2 / v is 1 with variance 2 / count.
        error = abs(float((W**2).mean()) / variance - 1.0)
        assert error <= 4 * math.sqrt(2 / count)
        assert abs(float(W.mean())) <= 4 * math.sqrt(variance / count)


def test_first_weight_and_readout_are_the_same_draw_in_every_arm_and_biases_zero():
    network = mlp(20, 16, 4, 10)
    arms = [Arm("gaussian"), Arm("orthogonal"), *grid(("flat",), (1 / 4,), "spectral")]
    first = network.sample(arms[0], 3, *STREAM)
    for arm in arms[1:]:
        other = network.sample(arm, 3, *STREAM)
        assert torch.equal(first["0.weight"], other["0.weight"])
        assert torch.equal(first["6.weight"], other["6.weight"])
        assert not torch.equal(first["2.weight"], other["2.weight"])
        assert not torch.equal(other["2.weight"], other["4.weight"])
        assert not torch.equal(other["2.weight"][0], other["2.weight"][1])
    assert all(not b.any() for name, b in first.items() if name.endswith("bias"))


def test_with_the_wider_scope_the_first_weight_is_the_arm_s_too():
    network = mlp(20, 16, 3, 10, scope="all-but-readout")
    found = network.sample(Arm("flat", 1 / 4), 2, *STREAM)
    t = squares(found["0.weight"])
    np.testing.assert_allclose(t[:, :4], 2.0 * 16 / 4, rtol=FLOAT32)
    assert (t[:, 4:] < 1e-8).all()
    assert squares(found["4.weight"])[:, 9].min() > 1e-3  # Gaussian: full rank


@pytest.mark.parametrize("rho", [1.0, 2.5, 15.9, 31.8, 60.0, 64.0])
def test_a_spike_has_the_participation_ratio_it_was_solved_for(rho):
    p = 64
    r = spike_with_participation_ratio(rho, p)
    t = np.array([1.0] + [(r - 1.0) / (p - 1)] * (p - 1))
    assert 1.0 - 1e-12 <= r <= p + 1e-9
    assert t.sum() ** 2 / (t**2).sum() == pytest.approx(rho, rel=1e-10)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_matched_spike_has_the_gaussian_s_rho_and_half_its_stable_rank(seed):
    n = 64
    arm = like_gaussian(n)
    assert arm.name == LIKE_GAUSSIAN
    network = mlp(n, n, 3, 10)
    (spiked,) = hidden_squares(arm, network, 2).values()
    t = squares(network.sample(Arm("gaussian"), 200, seed, "x")["2.weight"])
    ratio = t.sum(1) ** 2 / (t**2).sum(1)
    # The arm has E a1^2 / E a2, the sample a mean of ratios: they differ by O(1/n^2).
    error = ratio.std(ddof=1) / math.sqrt(len(ratio))
    mine = spiked.sum(1) ** 2 / (spiked**2).sum(1)
    assert abs(mine - ratio.mean()).max() <= 4 * error + ratio.mean() / n**2
    stable = t.sum(1) / t[:, 0]
    assert (spiked.sum(1) / spiked[:, 0]).max() < 0.55 * stable.mean()


def test_a_kernel_is_the_arm_s_matrix_unfolded():
    network = cnn(8, 2, 10, size=16)
    found = hidden_squares(Arm("spike", 1 / 2), network)
    assert set(found) == {"2", "4"}
    for t in found.values():
        np.testing.assert_allclose(t.sum(1), 16.0, rtol=FLOAT32)
        np.testing.assert_allclose(t.sum(1) / t[:, 0], 4.0, rtol=FLOAT32)
    template = network.make()
    shapes = {name: tuple(p.shape) for name, p in template.named_parameters()}
    drawn = network.sample(Arm("gaussian"), 1, 0, "x")
    assert {name: tuple(p.shape[1:]) for name, p in drawn.items()} == shapes
    outputs = template.to_empty(device="cpu")(torch.zeros(2, 3, 16, 16))
    assert outputs.shape == (2, 10)


def test_the_template_of_a_perceptron_takes_the_sampled_weights():
    network = mlp(12, 8, 4, 5)
    found = network.sample(Arm("spike", 1 / 4), 1, *STREAM)
    module = network.make().to_empty(device="cpu")
    module.load_state_dict({name: value[0] for name, value in found.items()})
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    h = x
    for name in ("0", "2", "4"):
        h = torch.relu(h @ found[f"{name}.weight"][0].T)
    expected = h @ found["6.weight"][0].T
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_no_arm_is_run_twice_and_every_draw_exists():
    for mode in ("quick", "full"):
        for cell in cells(mode):
            names = [arm.name for arm in cell.arms]
            assert len(set(names)) == len(names)
            assert {"gaussian", "orthogonal"} <= set(names)
            m, n = cell.hidden_shape
            for arm in cell.arms:
                assert arm.fraction != 1.0
                rank = arm.law(m, n).stable_rank
                if arm.fraction is not None:
                    assert rank == pytest.approx(arm.fraction * min(m, n), rel=1e-9)
    full = {arm.name for arm in cells("full")[0].arms}
    for spectrum in ("flat", "spike", "slice"):
        for share in ("1/32", "1/16", "1/8", "1/4", "1/2"):
            assert f"{spectrum} {share}" in full
            assert f"{spectrum} {share}, spectral" in full
    assert "mp-spike 1/8" in full
    assert "mp-spike 1/4" not in full
