"""Truncated and factored networks: nearest matrices, the same outputs, fewer bytes."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from spectrank.errors import DomainError, ShapeError
from spectrank.experiments.images import Images
from spectrank.experiments.seeds import derive_generator, derive_seed
from spectrank.experiments.zangrando2024neural.networks import Cnn, Mlp
from spectrank.experiments.zangrando2024neural.removal import after, during
from spectrank.experiments.zangrando2024neural.removal.factored import (
    factored,
    load,
    save,
)
from spectrank.experiments.zangrando2024neural.removal.truncation import (
    num_parameters,
    ranks_by_energy,
    ranks_by_entropy,
    share_kept,
    truncated,
    with_ranks,
)
from spectrank.experiments.zangrando2024neural.training import Recipe
from spectrank.train import batch_order


def matrix(sigma, m, n, seed=0):
    """A matrix with given singular values, and its factors."""
    g = torch.Generator().manual_seed(seed)
    k = len(sigma)
    U, V = (
        torch.linalg.qr(torch.randn(s, k, generator=g, dtype=torch.float64))[0]
        for s in (m, n)
    )
    return U * torch.tensor(sigma, dtype=torch.float64) @ V.T, U, V


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_truncation_keeps_the_largest_singular_values(scale):
    sigma = [4 * scale, 2 * scale, scale, 0.5 * scale]
    W, U, V = matrix(sigma, 6, 5)
    kept = U[:, :2] * torch.tensor(sigma[:2], dtype=torch.float64) @ V[:, :2].T
    for weight in (W, W.view(6, 5, 1, 1)):
        cut = truncated(weight, 2)
        assert cut.shape == weight.shape
        error = (cut.flatten(1) - kept).abs().max()
        assert float(error) <= 1e-13 * scale
    assert torch.equal(truncated(W, 5), W)
    assert not truncated(W, 0).any()
    with pytest.raises(DomainError, match="from 0, got -1; keep"):
        truncated(W, -1)


def test_rules_name_the_ranks_of_known_spectra():
    # Squares 16, 4, 1, 1 of 22: 0.909 after two. Entropy of (4, 2, 1, 1)/8 is
    # 1.75 bits, so that the effective rank is 2^1.75 = 3.36.
    W, *_ = matrix([4.0, 2.0, 1.0, 1.0], 7, 4)
    flat, *_ = matrix([3.0, 3.0, 3.0], 3, 8)
    assert ranks_by_energy([W, flat], 0.90) == (2, 3)
    assert ranks_by_energy([W, flat], 0.92) == (3, 3)
    assert ranks_by_entropy([W, flat]) == (4, 3)


def test_numbers_of_factors_are_counted_unless_the_whole_is_less():
    assert num_parameters((6, 5), 2) == 22
    assert num_parameters((6, 5), 4) == 30
    assert num_parameters((4, 3, 3, 3), 2) == 2 * (4 + 27)
    assert share_kept({"a": (6, 5), "b": (10, 20)}, (2, 5)) == (22 + 150) / 230


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_factors_survive_a_file_and_give_the_outputs_of_the_truncation(kind, tmp_path):
    g = torch.Generator().manual_seed(1)
    if kind == "mlp":
        model, x = Mlp(20, 24, 3).draw(g), torch.randn(9, 20, generator=g)
        names, ranks = ["0.weight", "2.weight", "4.weight"], [3, 5, 9]
    else:
        model = Cnn(2, (12, 16)).draw(g)
        x = torch.randn(9, 2, 9, 9, generator=g)
        names, ranks = ["0.weight", "2.weight", "6.weight"], [4, 5, 9]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=g)
    whole = {n: p.clone() for n, p in model.state_dict().items()}
    small = factored(model, ranks)
    # (10, 24) and (10, 16) at rank 9 would grow: the last layer stays whole.
    assert len(small) == len(model) + 2
    size = save(small, tmp_path / "small.safetensors")
    assert size < save(model, tmp_path / "whole.safetensors")
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(key).get_shape()) for key in file.keys()]  # noqa: SIM118
    stored = sum(math.prod(shape) for shape in shapes)
    biases = sum(p.numel() for n, p in whole.items() if n.endswith("bias"))
    weights = [tuple(whole[n].shape) for n in names]
    assert stored - biases == sum(map(num_parameters, weights, ranks))
    again = factored(model, ranks)
    for parameter in again.parameters():
        nn.init.constant_(parameter, math.nan)
    load(again, tmp_path / "small.safetensors")
    # The oracle: singular values beyond the rank set to zero, in float64.
    for name, rank in list(zip(names, ranks, strict=True))[:2]:
        A = whole[name].flatten(1).double()
        U, S, V = torch.linalg.svd(A, full_matrices=False)
        S[rank:] = 0.0
        cut = ((U * S) @ V).view_as(whole[name]).float()
        model.get_parameter(name).data.copy_(cut)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_rank_for_each_weight_is_asked_for():
    model = Mlp(6, 5, 2).draw(torch.Generator().manual_seed(0))
    with pytest.raises(ShapeError, match="got 1 ranks for 2 layers; give one"):
        factored(model, [1])
    with pytest.raises(ShapeError, match="got 1 ranks for 2 weights; give one"):
        with_ranks(model, ["0.weight", "2.weight"], [1])


def test_removal_from_a_network_that_is_already_of_rank_ten_changes_nothing():
    g = torch.Generator().manual_seed(4)
    model = Mlp(30, 32, 3).draw(g)
    for name in ("0.weight", "2.weight"):
        weight = model.get_parameter(name)
        low = torch.randn(32, 10, generator=g) @ torch.randn(
            10, weight.shape[1], generator=g
        )
        weight.data.copy_(low / 10)
    x, y = torch.randn(50, 30, generator=g), torch.arange(10).repeat(5)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    found = after.remove(model, (x, y), [10, 10, 10])
    rules = list(after.RULES)
    change = found["change"]
    assert change[rules.index("classes")] == 0.0
    assert change[rules.index("certified")] == 0.0
    whole = float((model(x).argmax(1) == y).double().mean())
    assert found["profile"][after.PROFILE.index(10)] == whole
    assert found["profile"][after.PROFILE.index(32)] == whole
    zeroed = with_ranks(model, ["0.weight", "2.weight", "4.weight"], [1, 1, 1])
    expected = float((zeroed(x).argmax(1) == y).double().mean())
    assert found["profile"][0] == expected
    numbers = 10 * (32 + 30) + 10 * 64 + 320
    assert found["kept"][rules.index("classes")] == numbers / (960 + 1024 + 320)
    assert found["file_share"] < 0.9
    assert found["file_error"] < 1e-5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def by_hand(design, r, *, cut):
    """Judgements of one network by a loop of torch.optim; weights cut by numpy."""
    seed, stream = 11, ("zangrando2024neural", design.name)
    train, test = design.images.train, design.images.test
    model = design.network.draw(derive_generator(seed, *stream, "start", r))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.03)
    found, steps = [], 10
    for segment in range(3):
        order = batch_order(
            derive_seed(seed, *stream, "batches", r, segment), len(train.labels), 25
        )
        for n, batch in enumerate(itertools.islice(order, steps)):
            done = segment * steps + n
            # Constant for half of the 30 steps, then a parabola.
            optimizer.param_groups[0]["lr"] = 0.2 * min(1.0, (30 - done) / 15) ** 2
            optimizer.zero_grad()
            outputs = model(train.inputs[batch])
            nn.functional.cross_entropy(outputs, train.labels[batch]).backward()
            optimizer.step()
        kept = [float((model(test.inputs).argmax(1) == test.labels).double().mean())]
        distances = []
        for layer in (model[0], model[2]):
            weight = layer.weight.detach().double().numpy()
            U, S, V = np.linalg.svd(weight, full_matrices=False)
            distances.append(np.linalg.norm(S[10:]) / np.linalg.norm(S))
            if cut:
                low = torch.from_numpy((U[:, :10] * S[:10]) @ V[:10])
                layer.weight.data.copy_(low)
        found.append([*kept, max(distances)])
    if cut:
        right = model(test.inputs).argmax(1) == test.labels
        found[-1][0] = float(right.double().mean())
    return found


def test_truncation_during_training_is_that_of_a_loop_that_cuts(monkeypatch):
    recipe = Recipe(
        learning_rate=0.2, momentum=0.0, batch_size=25, least_steps=1, most_steps=30
    )
    monkeypatch.setattr(during, "RECIPE", recipe)
    design = during.Design(Images("digits", 100, 60), Mlp(64, 24, 3), 0.03, 3, 2)
    ticks = []
    recorded = design.record(11, lambda: ticks.append(0))
    assert len(ticks) == 6
    for r in range(2):
        for arm, cut in enumerate((False, True)):
            expected = np.array(by_hand(design, r, cut=cut))
            np.testing.assert_allclose(recorded[r, arm], expected, rtol=1e-3)
    # Before the first truncation the arms are one, after it they are not.
    np.testing.assert_array_equal(recorded[:, 0, 0], recorded[:, 1, 0])
    assert (recorded[:, 1, 1:, 1] < 0.9 * recorded[:, 0, 1:, 1]).all()


def test_the_last_layer_is_not_cut_and_biases_stay():
    values = {
        "0.weight": torch.randn(2, 12, 14, generator=torch.Generator().manual_seed(0)),
        "0.bias": torch.ones(2, 12),
        "2.weight": torch.ones(2, 10, 12),
    }
    cut = during._cut(values)
    assert torch.equal(cut["0.bias"], values["0.bias"])
    assert torch.equal(cut["2.weight"], values["2.weight"])
    for r in range(2):
        sigma = torch.linalg.svdvals(cut["0.weight"][r].double())
        full = torch.linalg.svdvals(values["0.weight"][r].double())
        np.testing.assert_allclose(sigma[:10], full[:10], rtol=1e-5)
        assert float(sigma[10]) < 1e-5 * float(sigma[0])
