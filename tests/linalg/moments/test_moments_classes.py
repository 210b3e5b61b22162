"""Class statistics: exact oracles, named weights, missing and broken classes."""

import math

import numpy as np
import pytest
import torch
from exact_moments import exact_mean, exact_within, largest_relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments, Moments


def mixture(num_rows, num_classes, dim, *, spread=1.0, offset=0.0, seed=0):
    """Float64 rows around class centres and unbalanced labels (0 is frequent)."""
    generator = torch.Generator().manual_seed(seed)
    options = {"dtype": torch.float64, "generator": generator}
    centres = torch.randn(num_classes, dim, **options)
    share = torch.rand(num_rows, **options).square()
    labels = (share * num_classes).long()
    noise = torch.randn(num_rows, dim, **options)
    scales = 10.0 ** torch.linspace(-2, 2, dim, dtype=torch.float64)
    return (offset + centres[labels] + spread * noise) * scales, labels


def accumulate(rows, labels, num_classes, *, batch=11, **options):
    moments = ClassMoments(num_classes, rows.shape[1], **options)
    for part, names in zip(rows.split(batch), labels.split(batch), strict=True):
        moments.update(part, names)
    return moments


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e-12])
def test_every_scatter_is_exact_arithmetic_to_the_last_digits(spread, offset):
    rows, labels = mixture(150, 4, 5, spread=spread, offset=offset)
    each = exact_within(rows, rows, labels, 4)
    truth = each.sum(0)
    summary = accumulate(rows, labels, 4).compute()
    assert summary.counts.tolist() == torch.bincount(labels, minlength=4).tolist()
    assert largest_relative_error(summary.scatter, truth) < FLOAT64
    traces = each.diagonal(dim1=1, dim2=2).sum(1)
    assert torch.allclose(summary.traces, traces, rtol=FLOAT64, atol=0.0)
    diagonal = accumulate(rows, labels, 4, scatter="diagonal").compute()
    assert torch.allclose(diagonal.scatter, truth.diagonal(), rtol=FLOAT64, atol=0.0)
    by_class = accumulate(rows, labels, 4, scatter="class_diagonal").compute()
    want = each.diagonal(dim1=1, dim2=2)
    assert torch.allclose(by_class.scatter, want, rtol=FLOAT64, atol=0.0)
    for c in range(4):
        assert torch.allclose(
            summary.means[c], exact_mean(rows[labels == c]), rtol=1e-14, atol=1e-15
        )


def test_a_plain_two_pass_in_float64_agrees_where_it_can():
    rows, labels = mixture(400, 5, 6)
    summary = accumulate(rows, labels, 5).compute()
    means = torch.stack([rows[labels == c].mean(0) for c in range(5)])
    centred = rows - means[labels]
    assert largest_relative_error(summary.scatter, centred.T @ centred) < FLOAT64


def test_within_covariance_is_that_of_scikit_learn():
    rows, labels = mixture(300, 4, 5)
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True)
    lda.fit(rows.numpy(), labels.numpy())
    summary = accumulate(rows, labels, 4).compute()
    assert np.allclose(
        summary.within_covariance(), lda.covariance_, rtol=1e-10, atol=0.0
    )
    assert np.allclose(summary.means, lda.means_, rtol=1e-12, atol=0.0)


def test_within_and_between_with_sample_weights_add_to_the_total():
    rows, labels = mixture(200, 3, 4)
    summary = accumulate(rows, labels, 3).compute()
    total = np.cov(rows.numpy().T, bias=True)
    assert np.allclose(summary.total_covariance(), total, rtol=1e-12, atol=0.0)
    assert summary.total_variation.value == pytest.approx(
        np.trace(total), rel=1e-12, abs=0
    )
    second = rows.T @ rows / len(rows)
    assert torch.allclose(summary.second_moment(), second, rtol=1e-12, atol=1e-10)
    assert summary.mean_square.value == pytest.approx(
        float(second.trace()), rel=1e-12, abs=0
    )
    # A false friend: equal weights do not add when classes are unbalanced.
    other = summary.within_covariance() + summary.between_covariance("classes")
    assert not np.allclose(other, total, rtol=0.05, atol=0.0)


def test_between_covariances_are_those_of_their_names():
    rows, labels = mixture(90, 3, 4)
    summary = accumulate(rows, labels, 3).compute()
    means = torch.stack([rows[labels == c].mean(0) for c in range(3)])
    counts = torch.bincount(labels).double()
    of_means, of_rows = means.mean(0), rows.mean(0)
    papyan = sum(torch.outer(m - of_means, m - of_means) for m in means) / 3
    zhu = sum(torch.outer(m - of_rows, m - of_rows) for m in means) / 3
    he_su = sum(
        n * torch.outer(m - of_rows, m - of_rows)
        for m, n in zip(means, counts, strict=True)
    ) / len(rows)
    close = {"rtol": 1e-11, "atol": 1e-11}
    assert torch.allclose(summary.between_covariance(), papyan, **close)
    got = summary.between_covariance("classes", center="samples")
    assert torch.allclose(got, zhu, **close)
    assert torch.allclose(summary.between_covariance("samples"), he_su, **close)
    for weights, want in (("classes", papyan), ("samples", he_su)):
        trace = float(summary.between_variance(weights))
        assert trace == pytest.approx(float(want.trace()), rel=1e-12, abs=0)
    assert float(summary.between_variance("classes", center="samples")) == (
        pytest.approx(float(zhu.trace()), rel=1e-12, abs=0)
    )
    assert torch.allclose(summary.mean("classes"), of_means, rtol=1e-12, atol=0.0)
    assert torch.allclose(summary.mean("samples"), of_rows, rtol=1e-12, atol=0.0)
    centred = summary.centred_means("classes")
    assert torch.allclose(centred, means - of_means, **close)
    # The three are not interchangeable on unbalanced classes.
    assert not torch.allclose(papyan, he_su, rtol=0.05, atol=0.0)
    assert not torch.allclose(papyan, zhu, rtol=0.05, atol=0.0)


def test_class_means_that_differ_by_less_than_a_spacing_stay_apart():
    # Collapsed on one point but for single spacings: of 30 rows of class c, c are
    # 1 + 2^-52 and the others 1, so no mean but class 0's is a float at all.
    labels = torch.arange(4).repeat_interleave(30)
    high = torch.arange(30).repeat(4) >= 30 - labels
    rows = (1.0 + high.double() * 2.0**-52)[:, None]
    summary = accumulate(rows, labels, 4).compute()
    c = torch.arange(4).double()
    spacings = summary.centred_means()[:, 0] * 2.0**52
    assert torch.allclose(spacings, (c - 1.5) / 30, rtol=1e-14, atol=0.0)
    between = 2.0**-104 * float(((c - 1.5) / 30).square().mean())
    within = 2.0**-104 * float((c / 30 * (1 - c / 30)).mean())
    got = summary.between_variance()
    assert float(got) == pytest.approx(between, rel=1e-13, abs=0)
    assert summary.wcv.value == pytest.approx(within, rel=1e-13, abs=0)
    want = within / (within + between)
    assert summary.rtcv.value == pytest.approx(want, rel=1e-13, abs=0)
    # A false friend: the means themselves are equal, all of them.
    assert torch.equal(summary.means, torch.ones(4, 1, dtype=torch.float64))


@given(
    num_classes=st.integers(1, 6),
    num_rows=st.integers(1, 40),
    batch=st.integers(1, 40),
    exponent=st.integers(-12, 3),
    seed=st.integers(0, 10_000),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_wcv_and_rtcv_are_enclosed(num_classes, num_rows, batch, exponent, seed):
    rows, labels = mixture(
        num_rows, num_classes, 3, spread=10.0**exponent, offset=1.0, seed=seed
    )
    each = exact_within(rows, rows, labels, num_classes)
    truth = float(each.sum(0).trace()) / num_rows
    summary = accumulate(rows, labels, num_classes, batch=batch).compute()
    wcv = summary.wcv
    assert wcv.status == "ok"
    # The oracle's own trace and division round, too: one spacing.
    assert wcv.lower * (1 - 4e-16) <= truth <= wcv.upper * (1 + 4e-16)
    whole = exact_within(rows, rows, torch.zeros_like(labels), 1)[0]
    total = float(whole.trace()) / num_rows
    rtcv = summary.rtcv
    if total == 0.0:
        assert rtcv.status == "degenerate"
    else:
        assert 0.0 <= rtcv.lower <= rtcv.upper <= 1.0
        assert rtcv.lower * (1 - 1e-15) <= truth / total <= rtcv.upper * (1 + 1e-15)


def test_the_stated_error_of_wcv_is_needed_and_enough():
    # First rows far out, many rows: errors of several spacings.
    beyond = 0
    for seed in range(10):
        rows, labels = mixture(500, 2, 1, spread=1e-3, offset=1.0, seed=seed)
        rows[:2] *= 1e3
        labels[:2] = torch.tensor([0, 1])
        truth = float(exact_within(rows, rows, labels, 2).sum()) / 500
        wcv = accumulate(rows, labels, 2).compute().wcv
        beyond += abs(wcv.value - truth) > 4e-16 * truth
        assert wcv.lower <= truth <= wcv.upper
        assert 1e-15 < wcv.relative_width < 1e-13
    assert beyond > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_wcv_of_a_gaussian_mixture_has_its_known_mean(seed):
    # E[WCV] = sigma^2 d (1 - K/N); the trace is sigma^2 chi^2 with (N - K) d degrees.
    num_rows, num_classes, dim, sigma = 600, 6, 8, 0.3
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat(num_rows // num_classes)
    noise = torch.randn(num_rows, dim, dtype=torch.float64, generator=generator)
    rows = 3.0 * labels[:, None] + sigma * noise
    wcv = accumulate(rows, labels, num_classes, batch=50).compute().wcv.value
    mean = sigma**2 * dim * (1 - num_classes / num_rows)
    degrees = (num_rows - num_classes) * dim
    error = sigma**2 / num_rows * math.sqrt(2 * degrees)
    assert abs(wcv - mean) <= STANDARD_ERRORS * error


def test_a_missing_class_has_no_mean_and_takes_no_part():
    rows, labels = mixture(60, 3, 2)
    with_gaps = torch.tensor([1, 4, 5])[labels]
    want = accumulate(rows, labels, 3).compute()
    got = accumulate(rows, with_gaps, 7).compute()
    assert got.num_present == 3
    assert got.counts.tolist()[0] == 0
    assert torch.isnan(got.means[[0, 2, 3, 6]]).all()
    assert torch.isnan(got.class_variances[[0, 2, 3, 6]]).all()
    assert torch.equal(got.traces[[0, 2, 3, 6]], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(got.means[[1, 4, 5]], want.means)
    assert got.status == "ok"
    assert got.class_status(0) == ("degenerate", "no rows")
    assert got.class_status(4) == ("ok", None)
    for weights in ("classes", "samples"):
        assert torch.equal(
            got.between_covariance(weights), want.between_covariance(weights)
        )
        assert torch.equal(got.mean(weights), want.mean(weights))
    assert got.rtcv == want.rtcv


def test_a_class_of_one_row_has_scatter_zero_and_only_that():
    rows = torch.tensor([[1.0, 2.0], [5.0, 5.0], [7.0, 5.0]], dtype=torch.float64)
    moments = accumulate(rows, torch.tensor([0, 1, 1]), 2, batch=1)
    summary = moments.compute()
    assert summary.traces.tolist() == [0.0, 2.0]
    assert summary.class_variances.tolist() == [0.0, 1.0]
    assert summary.class_status(0) == ("ok", None)
    assert summary.scatter.tolist() == [[2.0, 0.0], [0.0, 0.0]]


def test_without_rows_everything_is_degenerate():
    summary = ClassMoments(3, 2).compute()
    assert (summary.status, summary.reason) == ("degenerate", "no rows")
    assert (summary.num_samples, summary.num_present) == (0, 0)
    for value in (summary.wcv, summary.rtcv, summary.mean_square):
        assert value.status == "degenerate"
        assert math.isnan(value.value)
    assert torch.isnan(summary.mean()).all()
    assert torch.isnan(summary.within_covariance()).all()


def test_equal_rows_are_degenerate_for_rtcv_and_zero_for_wcv():
    rows = torch.full((20, 3), 0.1, dtype=torch.float64)
    summary = accumulate(rows, torch.arange(20) % 4, 4).compute()
    assert summary.wcv.value == 0.0
    assert summary.wcv.status == "ok"
    assert summary.rtcv.status == "degenerate"
    assert "0/0" in summary.rtcv.reason


@pytest.mark.parametrize("scatter", ["full", "diagonal", "class_diagonal", "trace"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_row_stays_within_its_class(scatter, bad):
    rows, labels = mixture(80, 5, 3)
    labels[:5] = torch.arange(5)
    clean = accumulate(rows, labels, 5, scatter=scatter).compute()
    # The first, which would be the pivot, and another.
    rows[3, 1] = bad
    rows[(labels == 3).nonzero().flatten()[4], 0] = bad
    summary = accumulate(rows, labels, 5, scatter=scatter).compute()
    assert summary.num_nonfinite.tolist() == [0, 0, 0, 2, 0]
    assert int(summary.counts[3]) == int(clean.counts[3]) - 2
    others = [0, 1, 2, 4]
    assert torch.allclose(
        summary.means[others], clean.means[others], rtol=1e-14, atol=0.0
    )
    assert torch.allclose(
        summary.traces[others], clean.traces[others], rtol=1e-14, atol=0.0
    )
    assert torch.isnan(summary.means[3]).all()
    assert torch.isnan(summary.traces[3])
    assert summary.class_status(3)[0] == "nonfinite"
    assert summary.class_status(4) == ("ok", None)
    assert summary.status == "nonfinite"
    assert "2 rows" in summary.reason
    assert summary.wcv.status == "nonfinite"
    assert torch.isnan(summary.mean()).all()
    if scatter == "class_diagonal":
        got, want = summary.within_covariance(), clean.within_covariance()
        assert torch.allclose(got[others], want[others], rtol=1e-14, atol=0.0)
        assert torch.isnan(got[3]).all()
    elif scatter != "trace":
        assert torch.isnan(summary.within_covariance()).all()


def test_a_class_of_broken_rows_only_breaks_no_other():
    rows, labels = mixture(30, 2, 3)
    broken = torch.full((4, 3), math.nan, dtype=torch.float64)
    moments = accumulate(rows, labels, 3)
    moments.update(broken, torch.full((4,), 2))
    summary = moments.compute()
    assert summary.counts.tolist()[2] == 0
    assert summary.num_nonfinite.tolist() == [0, 0, 4]
    assert summary.class_status(2)[0] == "nonfinite"
    assert summary.class_status(0) == ("ok", None)


def test_ignored_labels_are_skipped_whatever_their_rows_hold():
    rows, labels = mixture(60, 3, 2)
    want = accumulate(rows, labels, 3).compute()
    padded = torch.cat([rows, torch.full((5, 2), math.nan, dtype=torch.float64)])
    names = torch.cat([labels, torch.full((5,), -100)])
    order = torch.randperm(65, generator=torch.Generator().manual_seed(1))
    got = accumulate(padded[order], names[order], 3, ignore_label=-100).compute()
    assert got.status == "ok"
    assert torch.equal(got.counts, want.counts)
    assert largest_relative_error(got.scatter, want.scatter) < FLOAT64
    # A label inside the range can be ignored as well.
    inside = accumulate(rows, labels, 3, ignore_label=1).compute()
    assert inside.counts.tolist()[1] == 0
    assert inside.counts.tolist()[2] == want.counts.tolist()[2]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_dtype_are_the_same_labels(dtype):
    rows, labels = mixture(40, 3, 2)
    want = accumulate(rows, labels, 3).compute()
    got = accumulate(rows, labels.to(dtype), 3).compute()
    assert torch.equal(got.scatter, want.scatter)


def test_one_class_is_the_plain_moments():
    rows, _ = mixture(50, 2, 3)
    summary = accumulate(rows, torch.zeros(50, dtype=torch.int64), 1).compute()
    plain = Moments(3)
    plain.update(rows)
    assert torch.equal(summary.scatter, plain.compute().scatter)
    assert torch.equal(summary.means[0], plain.compute().mean)
    assert float(summary.between_variance()) == 0.0
    assert summary.rtcv.value == 1.0


def test_ten_thousand_classes_need_no_square_per_class():
    # 10,000 classes of 3 rows in random order: c + (-1, 0, 1) e_1 has trace 2 each.
    num_classes, dim = 10_000, 16
    base = torch.arange(num_classes, dtype=torch.float64).repeat(3)
    rows = base[:, None].expand(-1, dim).clone()
    rows[:, 0] += torch.tensor([-1.0, 0, 1]).double().repeat_interleave(num_classes)
    labels = torch.arange(num_classes).repeat(3)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    moments = accumulate(rows[order], labels[order], num_classes, batch=128)
    summary = moments.compute()
    assert bool((summary.counts == 3).all())
    assert torch.allclose(
        summary.traces, torch.full_like(summary.traces, 2.0), rtol=1e-14, atol=0.0
    )
    assert float(summary.scatter[0, 0]) == pytest.approx(20_000.0, rel=FLOAT64, abs=0)
    assert float(summary.scatter[1:, 1:].abs().max()) < 1e-9
    assert max(t.numel() for t in moments.state_dict().values()) == num_classes * dim
    variance = (num_classes**2 - 1) / 12 * dim
    assert float(summary.between_variance()) == pytest.approx(
        variance, rel=FLOAT64, abs=0
    )
    trace = float(summary.between_covariance().trace())
    assert trace == pytest.approx(variance, rel=FLOAT64, abs=0)


@pytest.mark.parametrize(
    ("rows", "labels", "error", "message"),
    [
        ((2, 2), torch.tensor([0, 3]), DomainError, r"\[0, 3\), got 3; raise num_cl"),
        ((2, 2), torch.tensor([0, -1]), DomainError, "got -1; raise num_classes"),
        ((2, 2), torch.tensor([0.0, 1.0]), DomainError, "argmax"),
        ((2, 2), torch.tensor([True, False]), DomainError, "torch.bool"),
        ((2, 2), torch.tensor([0]), ShapeError, r"\(2,\), one for each row"),
        ((2, 2), torch.zeros(2, 3).long(), ShapeError, r"got \(2, 3\)"),
        ((2, 2), [0, 1], ArgumentTypeError, "got list"),
        ((2, 3), torch.tensor([0, 1]), ShapeError, r"\(N, 2\)"),
    ],
)
def test_a_refused_batch_leaves_no_trace(rows, labels, error, message):
    moments = ClassMoments(3, 2)
    moments.update(torch.ones(2, 2), torch.tensor([0, 1]))
    before = moments.state_dict()
    with pytest.raises(error, match=message):
        moments.update(torch.zeros(rows), labels)
    after = moments.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_was_not_kept_is_refused_with_a_way_out():
    rows, labels = mixture(20, 2, 2)
    summary = accumulate(rows, labels, 2, scatter="trace").compute()
    with pytest.raises(DomainError, match="scatter='full' or 'diagonal'"):
        summary.within_covariance()
    with pytest.raises(DomainError, match="got 'trace'; accumulate"):
        summary.total_covariance()
    with pytest.raises(DomainError, match="must be one of 'classes', 'samples'"):
        summary.between_covariance("equal")
    with pytest.raises(DomainError, match=r"\[0, 2\), got 2"):
        summary.class_status(2)
    assert summary.total_variation.status == "ok"


def two_collapsed_classes(distance):
    moments = ClassMoments(num_classes=2, dim=1)
    rows = torch.tensor([[0.0], [0.0], [distance], [distance]], dtype=torch.float64)
    moments.update(rows, torch.tensor([0, 0, 1, 1]))
    return moments.compute()


def test_means_whose_squares_leave_float64_have_a_status():
    near, far = two_collapsed_classes(1e-170), two_collapsed_classes(1e200)
    for value in (near.total_variation, near.rtcv, near.mean_square):
        assert value.status == "degenerate"
        assert "below float64's range" in value.reason
    for value in (far.total_variation, far.rtcv, far.mean_square):
        assert value.status == "nonfinite"
    sound = two_collapsed_classes(2.0)
    assert (sound.total_variation.value, sound.rtcv.value) == (1.0, 0.0)
