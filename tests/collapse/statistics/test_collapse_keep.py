"""Rows that are kept: all while they fit, else a uniform sample."""

import pytest
import torch
from tolerances import STANDARD_ERRORS

from spectrank.collapse.statistics.keep import RowKeeper


def numbered(start, stop):
    rows = torch.arange(start, stop, dtype=torch.float32)[:, None]
    return {"rows": rows, "labels": rows[:, 0].long()}


def fed(capacity, sizes, seed=0):
    keeper = RowKeeper(capacity, seed=seed)
    start = 0
    for size in sizes:
        keeper.update(numbered(start, start + size))
        start += size
    return keeper


def test_rows_that_fit_are_kept_in_order_and_dtype():
    kept = fed(10, [3, 4, 3]).compute()
    assert kept.exact
    assert kept.rows.dtype == torch.float32
    assert kept.labels.tolist() == list(range(10))


def test_a_sample_has_distinct_rows_in_order_with_their_labels():
    kept = fed(7, [5, 40, 3, 60]).compute()
    assert (len(kept.rows), kept.num_seen, kept.exact) == (7, 108, False)
    assert kept.labels.tolist() == sorted(set(kept.labels.tolist()))
    assert kept.rows[:, 0].tolist() == kept.labels.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batches_do_not_change_the_sample(seed):
    whole = fed(9, [100], seed).compute()
    cut = fed(9, [1, 17, 2, 33, 40, 7], seed).compute()
    assert whole.labels.tolist() == cut.labels.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_row_is_kept_equally_often(seed):
    capacity, size, runs = 4, 20, 800
    counts = torch.zeros(size)
    for run in range(runs):
        kept = fed(capacity, [5, 5, 5, 5], seed * runs + run).compute()
        counts[kept.labels] += 1
    p = capacity / size
    error = (p * (1 - p) / runs) ** 0.5
    assert float((counts / runs - p).abs().max()) < STANDARD_ERRORS * error


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shards_give_a_uniform_sample_of_both(seed):
    # 30 rows in one shard and 10 in the other: a quarter of the sample on average.
    runs, capacity = 500, 4
    first = 1 + seed * runs
    drawn = [_from_second(run, capacity) for run in range(first, first + runs)]
    # Hypergeometric: 4 of 40, 10 marked.
    variance = capacity * 0.25 * 0.75 * (40 - capacity) / 39
    error = (variance / runs) ** 0.5
    assert abs(sum(drawn) / runs - capacity * 0.25) < STANDARD_ERRORS * error


def _from_second(run, capacity):
    first, second = (
        RowKeeper(capacity, seed=2 * run),
        RowKeeper(capacity, seed=2 * run + 1),
    )
    first.update(numbered(0, 30))
    second.update(numbered(100, 110))
    first.absorb(second.state(), 10)
    kept = first.compute()
    assert (len(kept.rows), kept.num_seen) == (capacity, 40)
    return int((kept.labels >= 100).sum())


def test_nothing_is_kept_without_capacity_or_rows():
    keeper = fed(0, [5, 5])
    assert (keeper.compute(), keeper.num_seen) == (None, 10)
    assert fed(3, []).compute() is None


def test_absorbing_an_empty_shard_counts_its_rows():
    keeper = fed(5, [3])
    keeper.absorb({}, 4)
    kept = keeper.compute()
    assert (kept.num_seen, kept.exact) == (7, False)
