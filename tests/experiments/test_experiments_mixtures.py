"""Gaussian mixtures have the moments they state and one stream for each purpose."""

import math

import pytest
import torch
from tolerances import STANDARD_ERRORS

from spectrank.errors import DomainError
from spectrank.experiments.data import gaussian_mixture, load


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_centres_have_the_stated_norm_and_noise_the_stated_scale(seed):
    data = gaussian_mixture(
        6000, num_classes=3, clusters_per_class=1, dimension=20, noise=0.3, seed=seed
    )
    for label in range(3):
        x = data.inputs[data.labels == label].double()
        centre = x.mean(0)
        # |mean|^2 exceeds |centre|^2 by d noise^2 / n on average.
        error = 2 * math.sqrt(32) * 0.3 / math.sqrt(len(x))
        assert abs(float(centre @ centre) - 32 - 20 * 0.09 / 2000) < (
            STANDARD_ERRORS * error
        )
        squares = (x - centre).square().sum() / (0.09 * (len(x) - 1) * 20)
        assert abs(float(squares) - 1) < STANDARD_ERRORS * math.sqrt(2 / (len(x) * 20))


def test_classes_are_balanced_and_clusters_of_a_class_are_apart():
    data = gaussian_mixture(1024, noise=0.0)
    counts = data.labels.bincount()
    assert counts.max() - counts.min() <= 3
    assert len(data.inputs.unique(dim=0)) == 30
    for label in range(10):
        assert len(data.inputs[data.labels == label].unique(dim=0)) == 3


def test_splits_share_centres_and_no_sample():
    train, test = (
        gaussian_mixture(300, noise=1e-3, split=s) for s in ("train", "test")
    )
    assert (train.inputs - test.inputs).abs().max() < 0.02
    assert not torch.equal(train.inputs, test.inputs)
    other = gaussian_mixture(300, noise=1e-3, seed=1)
    assert (train.inputs - other.inputs).abs().max() > 0.1


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state():
    state = torch.get_rng_state()
    a, b = gaussian_mixture(64, seed=5), gaussian_mixture(64, seed=5)
    assert a.sha256 == b.sha256
    assert torch.equal(a.inputs, b.inputs)
    assert torch.equal(state, torch.get_rng_state())


def test_plain_classes_have_one_cluster_each():
    data = load("gaussian-classes")
    assert data.name == "gaussian-classes"
    within = torch.stack(
        [data.inputs[data.labels == k].var(0).mean() for k in range(4)]
    )
    assert (within - 0.01).abs().max() < 0.001


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 1},
        {"clusters_per_class": 0},
        {"dimension": 0},
        {"num_samples": 29},
        {"noise": -1.0},
        {"noise": math.nan},
        {"centre_norm": math.inf},
        {"split": "validation"},
    ],
)
def test_an_impossible_mixture_is_refused(options):
    with pytest.raises(DomainError, match="got"):
        gaussian_mixture(**options)
