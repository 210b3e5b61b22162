"""Partitions: exhaustive search on few rows, theorem A on all, B2 never rises."""

import itertools

import numpy as np
import pytest
import torch
from certificate_nets import (
    cross_of,
    dense_distance,
    dense_scatter,
    dense_within,
)

from spectrank.collapse.certificates import (
    best_partition,
    partition_profile,
    partition_rows,
)
from spectrank.collapse.certificates.partitions import _descend, _sides
from spectrank.errors import DomainError, ShapeError


def pairs(seed, num_rows=40, m=5, n=6, cells=4, spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    hidden = torch.arange(num_rows) % cells
    z = torch.randn(cells, n, **options)[hidden] + spread * torch.randn(
        num_rows, n, **options
    )
    delta = torch.randn(cells, m, **options)[hidden]
    return delta + spread * torch.randn(num_rows, m, **options), z, hidden


def size(delta, z, labels):
    return float(np.linalg.norm(dense_within(delta, z, labels)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_hidden_cells_are_found_without_labels(seed):
    delta, z, hidden = pairs(seed, spread=0.01)
    found = best_partition(delta, z, 4, seed=0)
    assert (
        len({(int(a), int(b)) for a, b in zip(found.labels, hidden, strict=True)}) == 4
    )
    assert found.num_cells == 4
    truth = size(delta, z, hidden)
    assert found.within_norm.value == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_search_comes_near_the_best_of_all_partitions_of_few_rows(seed):
    delta, z, _ = pairs(seed, num_rows=7, spread=1.0)
    every = [
        size(delta, z, torch.tensor(labels))
        for labels in itertools.product(range(3), repeat=7)
        if labels[0] == 0
    ]
    found = best_partition(delta, z, 3, seed=0, num_starts=8)
    assert found.within_norm.value >= min(every) - 1e-12
    # Random partitions are far: the search is in the best few of 729.
    assert np.mean(np.array(every) < found.within_norm.value) < 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_start_descends_in_the_product_of_the_scatters(seed):
    delta, z, _ = pairs(seed, spread=1.0)
    start = torch.randint(4, (40,), generator=torch.Generator().manual_seed(seed))
    end = _descend(_sides(delta, z, None), start)

    def product(labels):
        return dense_scatter(delta, labels) * dense_scatter(z, labels)

    assert product(end) < product(start)


def test_the_class_partition_is_never_beaten_by_the_search_alone():
    generator = torch.Generator().manual_seed(4)
    options = {"dtype": torch.float64, "generator": generator}
    # Classes that overlap: no clustering finds them.
    classes = torch.arange(60) % 5
    z, delta = torch.randn(60, 4, **options), torch.randn(60, 4, **options)
    own = size(delta, z, classes)
    found = best_partition(delta, z, 5, seed=0, labels=classes)
    assert found.within_norm.value <= own * (1 + 1e-12)
    z = z + 100.0 * torch.nn.functional.one_hot(classes, 5).to(z) @ torch.randn(
        5, 4, **options
    )
    delta = classes[:, None] + 1e-6 * delta
    found = best_partition(delta, z, 5, seed=0, labels=classes, num_starts=1)
    assert found.within_norm.value <= size(delta, z, classes) * (1 + 1e-12)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_profile_falls_and_bounds_the_distance_of_a_stationary_weight(seed):
    delta, z, hidden = pairs(seed)
    W = -(delta.T @ z) / 40 / 0.2
    profile = partition_profile(delta, z, range(1, 6), seed=0, labels=hidden)
    norms = [profile[k].within_norm.value for k in range(1, 6)]
    assert norms == sorted(norms, reverse=True)
    rows = partition_rows(
        W,
        delta,
        z,
        divisor=40,
        weight_decay=0.2,
        ranks=range(1, 6),
        seed=0,
        labels=hidden,
    )
    for row in rows:
        k = row["index"]
        assert row["variant"] == "partition"
        assert row["value"] == pytest.approx(
            dense_distance(W, k, "frobenius"), abs=1e-10
        )
        truth = size(delta, z, profile[k].labels) / 40 / 0.2
        if k < 5:
            assert row["bound"] == pytest.approx(truth, rel=1e-8)
            assert row["value"] <= truth
            assert row["verdict"] in {"holds", "vacuous"}
    assert rows[-1]["verdict"] == "not_applicable"


def test_a_constant_side_and_more_cells_than_rows_give_a_zero():
    delta, z, _ = pairs(7)
    assert (
        best_partition(delta, z[:1].expand(40, -1), 2, seed=0).within_norm.value < 1e-12
    )
    found = best_partition(delta, z, 99, seed=0)
    assert found.within_norm.value < 1e-12
    assert found.num_cells <= 40


def test_the_search_repeats_under_its_seed_and_takes_no_global_randomness():
    delta, z, _ = pairs(8, spread=2.0)
    state = torch.get_rng_state()
    first, second = (best_partition(delta, z, 6, seed=5) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(state, torch.get_rng_state())


def test_the_cells_of_the_winner_are_those_of_its_norm_in_every_norm():
    delta, z, _ = pairs(9, spread=1.0)
    for norm, order in (("spectral", 2), ("nuclear", "nuc")):
        found = best_partition(delta, z, 3, seed=0, norm=norm)
        R = dense_within(delta, z, found.labels)
        assert found.within_norm.value == pytest.approx(
            np.linalg.norm(R, order), rel=1e-7
        )
        cross = cross_of(delta, z, found.labels, 3)
        assert float(cross.within.sub(torch.as_tensor(R)).abs().max()) < 1e-12


def test_bad_requests_are_refused():
    delta, z, _ = pairs(1)
    with pytest.raises(DomainError, match="at least one cell"):
        best_partition(delta, z, 0, seed=0)
    with pytest.raises(ShapeError, match="of the same rows"):
        best_partition(delta[:3], z, 2, seed=0)
