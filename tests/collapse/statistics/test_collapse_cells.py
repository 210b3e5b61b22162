"""Cells put side by side and merged, against a recomputation of all rows."""

import pytest
import torch
from collapse_dense import wcv, within
from tolerances import FLOAT64

from spectrank.collapse.statistics import coarsen, coarsen_classes, join
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments, CrossMoments

M, N = 3, 4


def drawn(seed, size=60, num_cells=6, offset=0.0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    delta = offset + spread * torch.randn(size, M, generator=g, dtype=torch.float64)
    z = offset + spread * torch.randn(size, N, generator=g, dtype=torch.float64)
    return delta, z, torch.randint(num_cells, (size,), generator=g)


def summarised(delta, z, labels, num_cells, scatter="full"):
    cross = CrossMoments(num_cells, M, N, scatter_in=scatter, scatter_out=scatter)
    cross.update(delta, z, labels)
    return cross.compute()


def assert_equal(found, wanted, rtol=FLOAT64):
    """All that two summaries tell is equal, but for their choice of origin."""
    torch.testing.assert_close(found.within, wanted.within, rtol=rtol, atol=1e-13)
    for side in ("outputs", "inputs"):
        mine, theirs = getattr(found, side), getattr(wanted, side)
        assert mine.counts.tolist() == theirs.counts.tolist()
        torch.testing.assert_close(
            mine.means, theirs.means, rtol=rtol, atol=1e-13, equal_nan=True
        )
        torch.testing.assert_close(mine.traces, theirs.traces, rtol=rtol, atol=1e-13)
        torch.testing.assert_close(mine.scatter, theirs.scatter, rtol=rtol, atol=1e-13)
        assert (mine.status, theirs.status) == ("ok", "ok")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_merged_cells_equal_those_accumulated_at_once(seed):
    delta, z, fine = drawn(seed, num_cells=7)
    groups = torch.tensor([2, 0, 0, 1, 2, 3, 1])
    found = coarsen(summarised(delta, z, fine, 7), groups, 5)
    assert_equal(found, summarised(delta, z, groups[fine], 5))


def test_merged_cells_give_the_products_of_two_passes():
    delta, z, fine = drawn(3)
    groups = torch.tensor([0, 1, 0, 1, 0, 1])
    found = coarsen(summarised(delta, z, fine, 6), groups, 2)
    torch.testing.assert_close(found.within, within(delta, z, groups[fine]))
    assert found.inputs.wcv.value == pytest.approx(wcv(z, groups[fine]), rel=FLOAT64)
    assert found.outputs.wcv.value == pytest.approx(
        wcv(delta, groups[fine]), rel=FLOAT64
    )


def test_merging_loses_no_digits_far_from_the_origin():
    # Rows 1 +- 1e-6 about 1: a difference of squares would keep four digits of ten.
    delta, z, fine = drawn(4, offset=1.0, spread=1e-6)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    found = coarsen(summarised(delta, z, fine, 6), groups, 2)
    wanted = within(delta, z, groups[fine])
    assert float((found.within - wanted).norm() / wanted.norm()) < 1e-9


def test_empty_fine_cells_and_empty_cells_take_no_part():
    delta, z, fine = drawn(5, num_cells=3)
    groups = torch.tensor([0, 2, 0, 1, 1])
    found = coarsen(summarised(delta, z, fine, 5), groups, 3)
    assert found.inputs.counts[1] == 0
    assert bool(found.inputs.means[1].isnan().all())
    assert_equal(found, summarised(delta, z, groups[fine], 3))


def test_a_row_that_is_not_finite_spoils_its_cell_alone():
    delta, z, fine = drawn(6)
    z[0, 0] = torch.nan
    fine[0] = 0
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    found = coarsen(summarised(delta, z, fine, 6), groups, 3).inputs
    assert found.status == "nonfinite"
    assert bool(found.means[0].isnan().all())
    assert not bool(found.means[1:].isnan().any())


def test_merging_all_cells_gives_the_total_variation():
    delta, z, fine = drawn(7)
    summary = summarised(delta, z, fine, 6).inputs
    one = coarsen_classes(summary, torch.zeros(6, dtype=torch.int64), 1)
    assert one.wcv.value == pytest.approx(summary.total_variation.value, rel=FLOAT64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cells_side_by_side_equal_those_accumulated_at_once(seed):
    delta, z, labels = drawn(seed, num_cells=5)
    first = labels < 3
    found = join(
        summarised(delta[first], z[first], labels[first], 3),
        summarised(delta[~first], z[~first], labels[~first] - 3, 2),
    )
    assert_equal(found, summarised(delta, z, labels, 5))
    gradient = found.moment() * found.num_samples
    torch.testing.assert_close(gradient, delta.T @ z, rtol=FLOAT64, atol=1e-12)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_side_without_rows_changes_nothing(empty):
    delta, z, labels = drawn(8, num_cells=2)
    full = summarised(delta, z, labels, 2)
    none = summarised(delta[:0], z[:0], labels[:0], 1)
    found = join(*((none, full) if empty == 0 else (full, none)))
    torch.testing.assert_close(found.moment(), full.moment())
    assert found.inputs.wcv.value == pytest.approx(full.inputs.wcv.value, rel=FLOAT64)


def test_what_does_not_fit_is_refused():
    delta, z, labels = drawn(9)
    summary = summarised(delta, z, labels, 6)
    with pytest.raises(ShapeError, match="a cell to each of 6 fine cells"):
        coarsen(summary, torch.zeros(5, dtype=torch.int64), 1)
    with pytest.raises(DomainError, match="keep the same scatter"):
        join(summary, summarised(delta, z, labels, 6, scatter="trace"))
    other = CrossMoments(6, N, N, scatter_in="full", scatter_out="full").compute()
    with pytest.raises(ShapeError, match="same columns"):
        join(summary, other)
    diagonal = ClassMoments(6, N, scatter="diagonal")
    diagonal.update(z, labels)
    with pytest.raises(DomainError, match="full scatter or none"):
        coarsen_classes(diagonal.compute(), torch.zeros(6, dtype=torch.int64), 1)
