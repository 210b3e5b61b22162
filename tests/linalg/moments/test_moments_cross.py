"""Cross moments: autograd's gradient, theorem A's split, exact within-class parts."""

import math

import pytest
import torch
from exact_moments import exact_cross_scatter, exact_within
from tolerances import FLOAT64

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments, CrossMoments


def pairs(num_rows, num_classes, m, n, *, spread=1.0, seed=0):
    """Gradients and inputs of one class structure, with unbalanced classes."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    labels = (torch.rand(num_rows, **options).square() * num_classes).long()
    sides = []
    for dim in (m, n):
        centres = 1.0 + torch.randn(num_classes, dim, **options)
        noise = torch.randn(num_rows, dim, **options)
        sides.append(centres[labels] + spread * noise)
    return *sides, labels


def accumulate(delta, z, labels, num_classes, *, batch=13, **options):
    moments = CrossMoments(num_classes, delta.shape[1], z.shape[1], **options)
    for part in torch.arange(len(z)).split(batch):
        names = None if labels is None else labels[part]
        moments.update(delta[part], z[part], names)
    return moments


@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e-12])
def test_the_within_class_part_is_exact_at_any_level_of_collapse(spread):
    delta, z, labels = pairs(150, 4, 3, 5, spread=spread)
    summary = accumulate(delta, z, labels, 4).compute()
    truth = exact_within(delta, z, labels, 4).sum(0)
    left = exact_within(delta, delta, labels, 4).sum(0).diagonal().sqrt()
    right = exact_within(z, z, labels, 4).sum(0).diagonal().sqrt()
    error = (summary.within - truth).abs() / torch.outer(left, right)
    assert float(error.max()) < FLOAT64
    # A false friend: the whole less the part between, in plain sums, is all rounding.
    means = [(delta[labels == c], z[labels == c]) for c in range(4)]
    naive = delta.T @ z - sum(
        len(d) * torch.outer(d.mean(0), x.mean(0)) for d, x in means
    )
    lost = float(((naive - truth).abs() / torch.outer(left, right)).max())
    assert lost > 1e-8 or spread > 1e-12


def test_the_moment_is_the_gradient_that_autograd_gives():
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(60, 5, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    W = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    a = z @ W.T
    a.retain_grad()
    torch.nn.functional.cross_entropy(a, labels, reduction="sum").backward()
    summary = accumulate(a.grad, z, labels, 3).compute()
    assert torch.allclose(60 * summary.moment(), W.grad, rtol=1e-11, atol=1e-12)
    # delta = softmax - one-hot sums to zero over the outputs, in every part.
    assert float(summary.within_moment().sum(0).abs().max()) < 1e-14
    size = a.grad.square().sum() / 60
    assert summary.outputs.mean_square.value == pytest.approx(
        float(size), rel=1e-12, abs=0
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_split_bounds_distance_to_low_rank_as_theorem_a_says(seed):
    delta, z, labels = pairs(80, 3, 6, 7, spread=0.4, seed=seed)
    summary = accumulate(delta, z, labels, 3).compute()
    R, whole = summary.within_moment(), delta.T @ z / 80
    assert torch.allclose(summary.moment(), whole, rtol=1e-12, atol=1e-13)
    assert int(torch.linalg.matrix_rank(summary.between_moment())) <= 3
    sigma = torch.linalg.svdvals(whole)
    assert float(sigma[3:].square().sum().sqrt()) <= float(R.norm()) * (1 + 1e-12)
    nuclear = float(torch.linalg.svdvals(R).sum())
    b2 = math.sqrt(summary.outputs.wcv.value * summary.inputs.wcv.value)
    b1 = math.sqrt(summary.outputs.mean_square.value * summary.inputs.wcv.value)
    assert nuclear <= b2 * (1 + 1e-12)
    assert b2 <= b1 * (1 + 1e-12)


def test_collapsed_classes_leave_no_within_part():
    delta, z, labels = pairs(50, 4, 3, 2, spread=0.0)
    summary = accumulate(delta, z, labels, 4).compute()
    assert torch.equal(summary.within, torch.zeros(3, 2, dtype=torch.float64))
    assert summary.inputs.rtcv.value == 0.0
    whole = delta.T @ z / 50
    assert torch.allclose(summary.moment(), whole, rtol=1e-13, atol=1e-14)


def test_without_classes_the_within_part_is_the_cross_covariance():
    delta, z, _ = pairs(70, 4, 3, 2)
    summary = accumulate(delta, z, None, None).compute()
    truth = exact_cross_scatter(delta, z)
    assert torch.allclose(summary.within, truth, rtol=1e-12, atol=1e-12)
    assert summary.num_samples == 70
    assert torch.allclose(summary.moment(), delta.T @ z / 70, rtol=1e-12, atol=0.0)


def test_both_sides_are_the_class_moments_of_their_own():
    delta, z, labels = pairs(90, 4, 3, 5)
    both = accumulate(
        delta, z, labels, 4, scatter_in="full", scatter_out="full"
    ).compute()
    for rows, got in ((delta, both.outputs), (z, both.inputs)):
        alone = ClassMoments(4, rows.shape[1])
        alone.update(rows, labels)
        want = alone.compute()
        assert torch.allclose(got.scatter, want.scatter, rtol=1e-12, atol=1e-12)
        assert torch.allclose(got.means, want.means, rtol=1e-13, atol=0.0)
        assert got.wcv.value == pytest.approx(want.wcv.value, rel=1e-13, abs=0)
        second = rows.T @ rows / 90
        assert torch.allclose(got.second_moment(), second, rtol=1e-12, atol=1e-13)
    plain = accumulate(delta, z, labels, 4).compute()
    assert torch.equal(plain.within, both.within)
    assert plain.inputs.scatter is None


@pytest.mark.parametrize("side", [0, 1])
def test_a_pair_with_one_broken_side_is_left_out_as_a_pair(side):
    delta, z, labels = pairs(40, 3, 2, 3)
    labels[:3] = torch.arange(3)
    clean = accumulate(delta, z, labels, 3).compute()
    (delta, z)[side][1, 0] = math.nan
    summary = accumulate(delta, z, labels, 3).compute()
    assert summary.inputs.num_nonfinite.tolist() == [0, 1, 0]
    assert summary.outputs.num_nonfinite.tolist() == [0, 1, 0]
    assert summary.status == "nonfinite"
    assert torch.isnan(summary.within).all()
    assert torch.isnan(summary.moment()).all()
    for got, want in (
        (summary.inputs, clean.inputs),
        (summary.outputs, clean.outputs),
    ):
        assert torch.allclose(
            got.traces[[0, 2]], want.traces[[0, 2]], rtol=1e-13, atol=0.0
        )
        assert torch.isnan(got.traces[1])


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_whose_squares_underflow_is_degenerate_not_zero(side):
    sides = list(pairs(40, 2, 2, 3))
    sides[side] = sides[side] * 1e-165
    summary = accumulate(*sides, 2).compute()
    tiny, other = (summary.outputs, summary.inputs)[:: 1 if side == 0 else -1]
    assert tiny.status == "degenerate"
    assert "power of two" in tiny.reason
    assert math.isnan(tiny.wcv.value)
    assert other.status == "ok"
    assert summary.status == "degenerate"


def test_a_missing_class_and_no_pair_at_all():
    delta, z, labels = pairs(40, 2, 2, 3)
    want = accumulate(delta, z, labels, 2).compute()
    got = accumulate(delta, z, 2 * labels, 4).compute()
    assert torch.equal(got.within, want.within)
    assert torch.allclose(
        got.between_moment(), want.between_moment(), rtol=1e-14, atol=0.0
    )
    empty = CrossMoments(2, 2, 3).compute()
    assert empty.status == "degenerate"
    assert empty.reason == "no rows"
    assert torch.isnan(empty.moment()).all()
    assert torch.isnan(empty.between_moment()).all()


def test_ignored_pairs_are_skipped_on_both_sides():
    delta, z, labels = pairs(40, 2, 2, 3)
    masked = torch.where(torch.arange(40) % 4 == 0, -100, labels)
    kept = masked != -100
    got = accumulate(delta, z, masked, 2, ignore_label=-100).compute()
    want = accumulate(delta[kept], z[kept], labels[kept], 2).compute()
    assert torch.allclose(got.within, want.within, rtol=1e-12, atol=1e-13)
    assert got.num_samples == 30


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(3, 4)), ArgumentTypeError, "give both or nei"),
        (
            (torch.zeros(3, 2), torch.zeros(2, 4), torch.zeros(3).long()),
            ShapeError,
            "got 3 and 2",
        ),
        (
            (torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(3).long()),
            ShapeError,
            r"out_rows must have shape \(N, 2\)",
        ),
        (
            (torch.zeros(3, 2), torch.zeros(3, 4), torch.full((3,), 2)),
            DomainError,
            r"\[0, 2\), got 2",
        ),
    ],
)
def test_a_refused_pair_is_named(args, error, message):
    with pytest.raises(error, match=message):
        CrossMoments(2, 2, 4).update(*args)


def test_labels_without_classes_are_refused():
    with pytest.raises(ArgumentTypeError, match="num_classes=None"):
        CrossMoments(None, 1, 1).update(
            torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2).long()
        )
