"""NC1 in all its conventions, and CDNV."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from tolerances import FLOAT64, STANDARD_ERRORS

from spectrank.collapse.features import NC1_VARIANTS, cdnv, nc1, nc1_of
from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.linalg.moments import ClassMoments


def sample(seed, counts, dim, noise=1.0, shift=0.0):
    """Rows of a Gaussian mixture with so many rows of each class, shuffled."""
    g = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.randn(len(counts), dim, dtype=torch.float64, generator=g)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=g)]
    rows = torch.randn(len(labels), dim, dtype=torch.float64, generator=g)
    return centres[labels] + noise * rows + shift, labels


def by_hand(features, labels, variant):
    """Two passes in NumPy; the pseudo-inverse from the C - 1 largest eigenvalues."""
    x, y = features.numpy(), labels.numpy()
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in classes])
    counts = np.array([(y == c).sum() for c in classes])
    if variant == "cdnv":
        variances = [
            ((x[y == c] - x[y == c].mean(0)) ** 2).sum(1).mean() for c in classes
        ]
        terms = [
            (variances[a] + variances[b]) / (2 * ((means[a] - means[b]) ** 2).sum())
            for a in range(len(classes))
            for b in range(len(classes))
            if a != b
        ]
        return np.mean(terms)
    within = sum(
        (x[y == c] - x[y == c].mean(0)).T @ (x[y == c] - x[y == c].mean(0))
        for c in classes
    ) / len(x)
    plain = variant in {"papyan", "pinv", "trace-ratio"}
    centred = means - (means.mean(0) if plain else x.mean(0))
    w = (
        counts / len(x)
        if variant == "he-su"
        else np.full(len(classes), 1 / len(classes))
    )
    between = (centred * w[:, None]).T @ centred
    if variant == "trace-ratio":
        return np.trace(within) / np.trace(between)
    eigenvalues, vectors = np.linalg.eigh(between)
    keep = min(len(classes) - 1, x.shape[1])
    top = vectors[:, -keep:]
    value = np.sum(np.diag(top.T @ within @ top) / eigenvalues[-keep:])
    return value / len(classes) if variant in {"pinv", "zhu"} else value


@pytest.mark.parametrize("variant", NC1_VARIANTS)
@pytest.mark.parametrize(
    ("counts", "dim"),
    [([30] * 4, 7), ([3, 50, 11, 1, 8], 6), ([9, 4, 7, 12, 5, 20], 3), ([5, 8], 1)],
)
def test_every_variant_is_its_formula(variant, counts, dim):
    x, y = sample(3, counts, dim, shift=5.0)
    value = nc1(x, y, variant)
    truth = by_hand(x, y, variant)
    assert value.value == pytest.approx(truth, rel=1e-11)
    assert value.lower <= truth * (1 + FLOAT64)
    assert truth * (1 - FLOAT64) <= value.upper


def test_variants_differ_by_what_they_divide_by_and_centre_on():
    x, y = sample(1, [25] * 10, 40)
    value = {v: nc1(x, y, v).value for v in NC1_VARIANTS}
    # Balanced classes: both centres agree, and only the factor C is left.
    assert value["papyan"] == pytest.approx(10 * value["zhu"], rel=FLOAT64)
    assert value["zhu"] == pytest.approx(value["pinv"], rel=FLOAT64)
    assert value["papyan"] == pytest.approx(value["he-su"], rel=FLOAT64)
    x, y = sample(1, [5, 40, 100], 12)
    value = {v: nc1(x, y, v).value for v in NC1_VARIANTS}
    assert len({round(v, 6) for v in value.values()}) == 6


@pytest.mark.parametrize("scale", [0, -480, 480])
@pytest.mark.parametrize("offset", [0, 1 << 24])
def test_two_classes_enclose_the_exact_fraction(scale, offset):
    # With two classes the pseudo-inverse is rational: d = mu_1 - mu_0, Sigma_B = dd'/4.
    rows = [[3, -1, 4], [1, 5, -9], [2, 6, 5], [-3, 5, 8], [9, -7, 9], [3, 2, -3]]
    labels = [0, 0, 1, 1, 1, 1]
    unit = 2.0**scale
    x = (torch.tensor(rows, dtype=torch.float64) + offset) * unit
    exact = [[Fraction(v) for v in row] for row in rows]
    groups = [[r for r, c in zip(exact, labels, strict=True) if c == k] for k in (0, 1)]
    means = [[sum(col) / len(g) for col in zip(*g, strict=True)] for g in groups]
    d = [b - a for a, b in zip(*means, strict=True)]
    length = sum(v * v for v in d)
    along = sum(
        sum((v - m) * e for v, m, e in zip(row, means[k], d, strict=True)) ** 2
        for k in (0, 1)
        for row in groups[k]
    )
    truth = along / 6 * 4 / length**2
    value = nc1(x, torch.tensor(labels))
    assert Fraction(value.lower) <= truth <= Fraction(value.upper)
    assert value.value == pytest.approx(float(truth), rel=FLOAT64)
    spread = [
        sum(
            (v - m) ** 2
            for row in groups[k]
            for v, m in zip(row, means[k], strict=True)
        )
        / len(groups[k])
        for k in (0, 1)
    ]
    value = nc1(x, torch.tensor(labels), "cdnv")
    assert value.value == pytest.approx(float(sum(spread) / 2 / length), rel=FLOAT64)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("num_classes", "dim"), [(10, 64), (20, 128)])
def test_gaussian_means_give_the_inverse_wishart_value(seed, num_classes, dim):
    # Means N(0, I): K Sigma_B is Wishart with D degrees on K - 1 dimensions, and
    # E tr(Wishart^-1) = (K - 1)/(D - K). Noise s: Sigma_W = s^2 (1 - 1/n) I.
    g = torch.Generator().manual_seed(seed)
    n, noise, draws = 3, 0.1, 40
    values = []
    for _ in range(draws):
        means = torch.randn(num_classes, dim, dtype=torch.float64, generator=g)
        y = torch.arange(num_classes).repeat(n)
        rows = torch.randn(len(y), dim, dtype=torch.float64, generator=g)
        values.append(nc1(means[y] + noise * rows, y, "zhu").value)
    # The noise of the means adds s^2/n to the variance of each entry.
    s2 = noise**2
    truth = s2 * (1 - 1 / n) * (num_classes - 1) / (dim - num_classes) / (1 + s2 / n)
    error = np.std(values, ddof=1) / draws**0.5
    assert abs(np.mean(values) - truth) <= STANDARD_ERRORS * error


def test_the_values_noted_from_a_peer_lie_in_our_spread():
    # K, D, noise = 10, 512, 0.1: 1.776e-4 on the span, over K; quotient 1.099e-2.
    g = torch.Generator().manual_seed(7)
    spans, quotients = [], []
    for _ in range(8):
        y = torch.arange(10).repeat(40)
        x = torch.randn(10, 512, dtype=torch.float64, generator=g)[y]
        x = x + 0.1 * torch.randn(400, 512, dtype=torch.float64, generator=g)
        spans.append(nc1(x, y, "pinv").value)
        quotients.append(nc1(x, y, "trace-ratio").value)
    for values, noted in ((spans, 1.776e-4), (quotients, 1.099e-2)):
        # One more draw, of an unknown number of rows per class.
        spread = np.std(values, ddof=1) + np.mean(values) / 40
        assert abs(np.mean(values) - noted) <= STANDARD_ERRORS * spread


def test_a_default_pseudo_inverse_is_a_false_friend_and_ours_is_not():
    x, y = sample(5, [20] * 10, 40)
    truth = by_hand(x, y, "papyan")
    # Sigma_B from uncentred second moments in float32, as scripts do.
    means = np.stack([x[y == c].numpy().mean(0) for c in range(10)]) + 30.0
    m32 = means.astype(np.float32)
    between = m32.T @ m32 / 10 - np.outer(m32.mean(0), m32.mean(0))
    within = sum(
        (x[y == c] - x[y == c].mean(0)).T.cov(correction=0) * 20 for c in range(10)
    )
    naive = float(np.trace(within.numpy() / 200 @ np.linalg.pinv(between)))
    assert not 0.5 * truth < naive < 2.0 * truth
    assert nc1(x + 30.0, y).value == pytest.approx(truth, rel=1e-10)
    # In float32 features themselves the offset costs digits, but never the scale.
    assert nc1((x + 30.0).float(), y).value == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize("variant", NC1_VARIANTS)
def test_scale_shift_and_rotation_do_not_matter(variant):
    x, y = sample(11, [12, 30, 7], 8)
    before = nc1(x, y, variant).value
    q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    for moved in (x * 1e-100, x * 1e100, x + 100.0, x @ q):
        assert nc1(moved, y, variant).value == pytest.approx(before, rel=1e-11)


@pytest.mark.parametrize("variant", NC1_VARIANTS)
def test_collapse_of_a_trillionth_is_resolved(variant):
    g = torch.Generator().manual_seed(2)
    y = torch.arange(4).repeat(25)
    # Dyadic rows: centre, plus spread of 2^-40, exact in float64.
    centres = torch.randint(-8, 8, (4, 5), generator=g).double()
    rows = torch.randint(-128, 128, (100, 5), generator=g).double() * 2.0**-47
    fine = nc1(centres[y] + rows, y, variant).value
    coarse = by_hand(centres[y] + rows * 2.0**37, y, variant)
    # Coarse rows move the class means by a thousandth, and NC1 with them.
    assert fine * 2.0**74 == pytest.approx(coarse, rel=2e-2)
    assert fine < 1e-21


@pytest.mark.parametrize("variant", NC1_VARIANTS)
def test_collapsed_classes_read_zero_and_equal_means_are_degenerate(variant):
    y = torch.arange(3).repeat(4)
    collapsed = nc1(torch.eye(3, dtype=torch.float64)[y], y, variant)
    assert collapsed.value == 0.0
    assert collapsed.status == "ok"
    rows = torch.tensor([[1.0], [-1.0]]).double().repeat(3, 1)
    equal = nc1(rows, torch.tensor([0, 0, 1, 1, 2, 2]), variant)
    assert equal.status == "degenerate"
    assert "equal" in equal.reason
    constant = nc1(torch.ones(12, 2).double(), y, variant)
    assert constant.status == "degenerate"
    alone = nc1(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64), variant)
    assert alone.status == "degenerate"
    assert "1 of 1" in alone.reason


@pytest.mark.parametrize("variant", NC1_VARIANTS)
def test_rows_that_are_not_finite_are_said_not_skipped(variant):
    x, y = sample(0, [5, 5], 3)
    x[2, 1] = torch.nan
    assert nc1(x, y, variant).status == "nonfinite"


@pytest.mark.parametrize("variant", NC1_VARIANTS)
def test_classes_without_rows_take_no_part(variant):
    x, y = sample(4, [6, 9, 5], 4)
    spread = torch.tensor([1, 4, 7])[y]
    value = nc1(x, spread, variant, num_classes=30).value
    assert value == pytest.approx(by_hand(x, y, variant), rel=1e-11)


def test_cdnv_across_tiles_and_for_near_twins_is_the_loop():
    g = torch.Generator().manual_seed(9)
    means = torch.randn(300, 3, dtype=torch.float64, generator=g)
    means[257] = means[3] + 1e-7 * torch.randn(3, dtype=torch.float64, generator=g)
    y = torch.arange(300).repeat(2)
    jitter = 0.01 * torch.randn(300, 3, dtype=torch.float64, generator=g)
    x = torch.cat([means + jitter, means - jitter])
    value = cdnv(x, y)
    truth = by_hand(x, y, "cdnv")
    # The twins' distance itself has seven digits less.
    assert value.value == pytest.approx(truth, rel=1e-8)
    assert value.lower <= truth <= value.upper


def test_two_classes_with_equal_means_have_no_cdnv():
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [5, 5]]).double()
    value = cdnv(x, torch.tensor([0, 0, 1, 1, 2]))
    assert value.status == "degenerate"
    assert "equal means" in value.reason


def test_nc1_from_a_summary_is_nc1_and_says_what_it_lacks():
    x, y = sample(6, [8, 9, 10], 5)
    moments = ClassMoments(3, 5, scatter="full")
    for part in range(0, 27, 4):
        moments.update(x[part : part + 4], y[part : part + 4])
    for variant in NC1_VARIANTS:
        value = nc1_of(moments.compute(), variant).value
        assert value == pytest.approx(by_hand(x, y, variant), rel=1e-11)
    traces = ClassMoments(3, 5, scatter="trace")
    traces.update(x, y)
    assert nc1_of(traces.compute(), "cdnv").value == pytest.approx(
        by_hand(x, y, "cdnv")
    )
    with pytest.raises(DomainError, match="needs the full scatter, got 'trace'"):
        nc1_of(traces.compute(), "papyan")


def test_a_float32_scatter_widens_the_enclosure_over_the_truth():
    x, y = sample(8, [200] * 5, 20)
    moments = ClassMoments(5, 20, scatter="full", precision="float32")
    moments.update(x, y)
    value, truth = nc1_of(moments.compute()), by_hand(x, y, "papyan")
    assert value.lower <= truth <= value.upper
    assert value.relative_width > 1e-7


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x, y: nc1(x, y, "strong"), UnknownNameError, "papyan.*got 'strong'"),
        (
            lambda x, y: nc1(x.numpy(), y),
            ArgumentTypeError,
            "torch.Tensor, got ndarray",
        ),
        (lambda x, y: nc1(x[None], y), ShapeError, r"two dimensions.*\(1, 6, 2\)"),
        (lambda x, y: nc1(x, y[:3]), ShapeError, r"labels must have shape \(6,\)"),
        (lambda x, y: nc1(x, x), DomainError, "soft labels"),
        (lambda x, y: nc1(x, y - 1), DomainError, "labels must lie in"),
        (lambda x, y: nc1(x, y, rtol=1.0), DomainError, r"rtol must lie in \[0, 1\)"),
    ],
)
def test_what_is_no_classification_is_refused(call, error, match):
    x, y = sample(0, [3, 3], 2)
    with pytest.raises(error, match=match):
        call(x, y)
