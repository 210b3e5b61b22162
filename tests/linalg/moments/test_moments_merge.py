"""Shards merge in any order, batches cut anywhere, states saved and restored."""

import itertools

import pytest
import torch
from exact_moments import exact_mean, exact_within, largest_relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments, CrossMoments, Moments


def rows_and_labels(num_rows, num_classes, *, spread, seed, dim=3):
    """Rows of relative spread about 1, 1e3 and 1e-3; class centres apart by 0.1."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    labels = torch.randint(0, num_classes, (num_rows,), generator=generator)
    centres = 1.0 + 0.1 * torch.randn(num_classes, dim, **options)
    noise = torch.randn(num_rows, dim, **options)
    scales = torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)[:dim]
    return (centres[labels] + spread * noise) * scales, labels


def shard(rows, labels, num_classes, **options):
    moments = ClassMoments(num_classes, rows.shape[1], **options)
    moments.update(rows, labels)
    return moments


def merged(shards, order):
    total = ClassMoments(*shards[0].state_dict()["pivots"].shape)
    for index in order:
        total.merge(shards[index])
    return total


def assert_same(got, want, tolerance=FLOAT64):
    assert torch.equal(got.counts, want.counts)
    if got.num_samples > got.num_present:
        alive = want.scatter.diagonal() > 0
        a, b = got.scatter[alive][:, alive], want.scatter[alive][:, alive]
        assert largest_relative_error(a, b) < tolerance
    assert torch.allclose(got.traces, want.traces, rtol=tolerance, atol=0.0)
    assert torch.allclose(got.means, want.means, rtol=1e-14, atol=0.0, equal_nan=True)


@given(
    num_rows=st.integers(1, 60),
    num_classes=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    exponent=st.sampled_from([0, -3, -6, -9, -12]),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
@settings(derandomize=True, deadline=None, max_examples=80)
def test_shards_merge_in_any_order_to_the_exact_scatter(
    num_rows, num_classes, cuts, exponent, seed, data
):
    spread = 10.0**exponent
    rows, labels = rows_and_labels(num_rows, num_classes, spread=spread, seed=seed)
    # Cuts may coincide: empty shards. Classes may be in one shard only.
    edges = [0, *sorted(min(c, num_rows) for c in cuts), num_rows]
    shards = [
        shard(rows[a:b], labels[a:b], num_classes) for a, b in itertools.pairwise(edges)
    ]
    order = data.draw(st.permutations(range(len(shards))))
    got = merged(shards, order).compute()
    each = exact_within(rows, rows, labels, num_classes)
    assert torch.equal(got.counts, torch.bincount(labels, minlength=num_classes))
    traces = each.diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(got.traces, traces, rtol=FLOAT64, atol=0.0)
    if bool((traces > 0).any()):
        assert largest_relative_error(got.scatter, each.sum(0)) < FLOAT64
    for c in labels.unique():
        want = exact_mean(rows[labels == c])
        assert torch.allclose(got.means[c], want, rtol=1e-14, atol=0.0)
    assert_same(got, shard(rows, labels, num_classes).compute())


@pytest.mark.parametrize("distance", [0.0, 1.0, 1e6])
def test_merging_withstands_pivots_that_lie_far_apart(distance):
    # Every shard's first row is far out in a direction of its own.
    rows, labels = rows_and_labels(400, 1, spread=1e-9, seed=3)
    for index, start in enumerate(range(0, 400, 50)):
        rows[start] *= 1.0 + distance * (index - 3)
    shards = [shard(rows[i : i + 50], labels[i : i + 50], 1) for i in range(0, 400, 50)]
    truth = exact_within(rows, rows, labels, 1)[0]
    for order in (range(8), range(7, -1, -1), [3, 7, 0, 1, 6, 2, 5, 4]):
        got = merged(shards, order).compute()
        assert largest_relative_error(got.scatter, truth) < FLOAT64


def test_pivots_whose_difference_rounds_are_differenced_exactly():
    # p' - p = 1 + 2^-60 is no float; the part that rounding takes is the mean's.
    one = Moments(1)
    one.update(torch.tensor([[-(2.0**-60)]], dtype=torch.float64))
    other = Moments(1)
    other.update(torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    one.merge(other)
    state = one.state_dict()
    # Mean of (-2^-60, 1, -1) less the pivot -2^-60, that is 2/3 of 2^-60.
    assert float(state["offsets"]) == pytest.approx(2 / 3 * 2.0**-60, rel=1e-15, abs=0)
    assert float(state["offsets"]) != 0.0


def test_a_tree_of_merges_is_a_chain_of_merges():
    rows, labels = rows_and_labels(640, 3, spread=1e-12, seed=5)
    parts = list(zip(rows.split(40), labels.split(40), strict=True))
    chain = merged([shard(r, y, 3) for r, y in parts], range(16)).compute()
    level = [shard(r, y, 3) for r, y in parts]
    while len(level) > 1:
        for left, right in zip(level[::2], level[1::2], strict=True):
            left.merge(right)
        level = level[::2]
    assert_same(level[0].compute(), chain)


@pytest.mark.parametrize("spread", [1.0, 1e-12])
def test_batches_of_any_size_give_the_same_bits(spread):
    # Rows wait in tiles of fixed size. 12,000 rows of 60 columns are a dozen.
    rows, labels = rows_and_labels(12_000, 7, spread=spread, seed=2)
    rows = rows.repeat(1, 20)
    whole = shard(rows, labels, 7).state_dict()
    for size in (1, 100, 4096, 5000):
        moments = ClassMoments(7, 60)
        for part, names in zip(rows.split(size), labels.split(size), strict=True):
            moments.update(part, names)
        state = moments.state_dict()
        assert all(torch.equal(state[name], whole[name]) for name in whole), size


def test_reading_in_between_changes_rounding_only():
    rows, labels = rows_and_labels(300, 3, spread=1e-12, seed=2)
    moments = ClassMoments(3, 3)
    for part, names in zip(rows.split(1), labels.split(1), strict=True):
        moments.update(part, names)
        assert int(moments.counts.sum()) > 0
    assert_same(moments.compute(), shard(rows, labels, 3).compute())


def test_order_of_rows_changes_rounding_only():
    rows, labels = rows_and_labels(500, 4, spread=1e-12, seed=9)
    want = shard(rows, labels, 4).compute()
    for seed in (1, 2, 3):
        order = torch.randperm(500, generator=torch.Generator().manual_seed(seed))
        assert_same(shard(rows[order], labels[order], 4).compute(), want)


def test_merging_with_itself_doubles_every_row():
    rows, labels = rows_and_labels(50, 3, spread=1e-6, seed=1)
    moments = shard(rows, labels, 3)
    moments.merge(moments)
    twice = shard(rows.repeat(2, 1), labels.repeat(2), 3)
    assert_same(moments.compute(), twice.compute())


def test_merging_leaves_the_other_as_it_was_and_counts_broken_rows():
    rows, labels = rows_and_labels(60, 2, spread=1.0, seed=1)
    rows[40, 0] = torch.nan
    left, right = shard(rows[:30], labels[:30], 2), shard(rows[30:], labels[30:], 2)
    before = right.state_dict()
    left.merge(right)
    after = right.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    broken = int(labels[40])
    assert left.num_nonfinite.tolist() == [1 - broken, broken]
    assert left.compute().class_status(broken)[0] == "nonfinite"
    assert left.compute().class_status(1 - broken) == ("ok", None)


def test_shards_too_far_apart_to_be_squared_are_nonfinite():
    for size in (1e200, 1.7e308):
        left, right = Moments(2), Moments(2)
        left.update(torch.full((3, 2), size, dtype=torch.float64))
        right.update(torch.full((3, 2), -size, dtype=torch.float64))
        left.merge(right)
        summary = left.compute()
        assert summary.status == "nonfinite"
        assert "overflow" in summary.reason
        assert torch.isnan(summary.scatter).all()


def test_shards_too_close_to_be_squared_are_degenerate():
    left, right = Moments(1), Moments(1)
    left.update(torch.tensor([[1e-170]], dtype=torch.float64))
    right.update(torch.tensor([[2e-170]], dtype=torch.float64))
    left.merge(right)
    assert left.compute().status == "degenerate"


def make_all(rows, labels):
    """One accumulator of each type and kind, fed, and a way to feed it again."""
    made = [
        (Moments(3, scatter=kind), lambda m, r, y: m.update(r))
        for kind in ("full", "diagonal", "trace")
    ]
    for kind in ("full", "diagonal", "class_diagonal", "trace"):
        moments = ClassMoments(4, 3, scatter=kind, ignore_label=-1)
        made.append((moments, lambda m, r, y: m.update(r, y)))
    made.extend(
        (
            (CrossMoments(None, 2, 3), lambda m, r, y: m.update(r[:, :2], r)),
            (
                CrossMoments(4, 2, 3, scatter_in="full", precision="float32"),
                lambda m, r, y: m.update(r[:, :2], r, y),
            ),
        )
    )
    for moments, feed in made:
        feed(moments, rows, labels)
    return made


def test_a_state_goes_through_a_file_and_on(tmp_path):
    rows, labels = rows_and_labels(80, 4, spread=1e-9, seed=6)
    for moments, feed in make_all(rows[:50], labels[:50]):
        saved = moments.state_dict()
        torch.save(saved, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        restored = type(moments).from_state_dict(state)
        assert repr(restored) == repr(moments)
        feed(moments, rows[50:], labels[50:])
        feed(restored, rows[50:], labels[50:])
        got, want = restored.state_dict(), moments.state_dict()
        assert all(torch.equal(got[name], want[name]) for name in want)
        # A state is a copy: what came after did not reach it.
        assert all(torch.equal(saved[name], state[name]) for name in state)


def test_a_state_of_another_kind_or_shape_is_refused():
    rows, labels = rows_and_labels(20, 4, spread=1.0, seed=6)
    made = [moments for moments, _ in make_all(rows, labels)]
    with pytest.raises(DomainError, match="its own state of version 1, got type 2"):
        Moments.from_state_dict(made[3].state_dict())
    state = made[0].state_dict()
    with pytest.raises(DomainError, match="must hold settings and counts"):
        Moments.from_state_dict({"counts": state["counts"]})
    with pytest.raises(DomainError, match="pass what state_dict returned"):
        Moments.from_state_dict({k: v for k, v in state.items() if k != "pivots"})
    with pytest.raises(ShapeError, match=r"pivots must have shape \(1, 3\)"):
        Moments.from_state_dict({**state, "pivots": torch.zeros(1, 2)})
    newer = state["settings"].clone()
    newer[0] = 2
    with pytest.raises(DomainError, match="of version 2"):
        Moments.from_state_dict({**state, "settings": newer})


def test_only_like_accumulators_merge():
    rows, labels = rows_and_labels(20, 4, spread=1.0, seed=6)
    made = [moments for moments, _ in make_all(rows, labels)]
    for i, left in enumerate(made):
        for j, right in enumerate(made):
            if i == j:
                continue
            expected = DomainError if type(left) is type(right) else ArgumentTypeError
            with pytest.raises(expected, match=r"construct both|keep one acc"):
                left.merge(right)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_host_wherever_rows_come_from():
    rows, labels = rows_and_labels(300, 4, spread=1e-12, seed=6)
    want = shard(rows, labels, 4).compute()
    for source in ("cpu", "cuda"):
        moments = ClassMoments(4, 3, device="cuda")
        moments.update(rows.to(source), labels.to(source))
        assert moments.device.type == "cuda"
        host = ClassMoments.from_state_dict(moments.state_dict(), device="cpu")
        assert_same(host.compute(), want)
        mixed = ClassMoments(4, 3)
        mixed.merge(moments)
        assert_same(mixed.compute(), want)
