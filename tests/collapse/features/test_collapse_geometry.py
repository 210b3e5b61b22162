"""NC2 and NC3 against the exact simplex, closed forms and plain loops."""

import math

import numpy as np
import pytest
import torch
from tolerances import FLOAT64

from spectrank.collapse.features import (
    NC2_VARIANTS,
    NC3_VARIANTS,
    etf_error,
    nc2,
    nc2_classifier,
    nc2_of,
    nc3,
    nc3_of,
)
from spectrank.errors import ShapeError, UnknownNameError
from spectrank.linalg.moments import ClassMoments


def simplex(num_classes, dim, seed=0, scale=1.0):
    """Vertices of a simplex ETF in a random subspace, as rows."""
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(
        torch.randn(dim, num_classes, dtype=torch.float64, generator=g)
    ).Q
    centre = 1.0 / num_classes
    return scale * (torch.eye(num_classes, dtype=torch.float64) - centre) @ q.mT


def clouds(means, counts, seed=0, noise=0.3):
    """Rows around given means, with each deviation paired with its opposite."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(len(means)).repeat_interleave(torch.tensor(counts))
    off = noise * torch.randn(len(y), means.shape[1], dtype=torch.float64, generator=g)
    return torch.cat([means[y] + off, means[y] - off]), torch.cat([y, y])


@pytest.mark.parametrize("num_classes", [2, 3, 10, 600])
@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e120])
def test_a_simplex_reads_zero_in_every_convention(num_classes, scale):
    means = simplex(num_classes, num_classes + 3, scale=scale)
    # The offset has binary digits in common with the means, or none would be left.
    x, y = means + scale, torch.arange(num_classes)
    for variant in NC2_VARIANTS:
        for value in (nc2(x, y, variant), nc2_classifier(means, variant)):
            assert value.value < 1e-12
            assert value.lower == 0.0
            assert value.upper < 1e-10
    for variant in NC3_VARIANTS:
        value = nc3(x, y, 3.0 * means / scale, variant)
        assert value.value < 1e-12
        assert value.lower == 0.0
    assert etf_error(means).value < 1e-12


def test_an_uncentred_simplex_is_no_simplex():
    # Plus an offset that dwarfs it the Gram matrix is 11^T: |J/C - P/sqrt(C-1)|^2 = 2.
    offset = torch.full((1, 9), 1e3, dtype=torch.float64)
    assert etf_error(simplex(7, 9) + offset).value == pytest.approx(2**0.5, rel=1e-3)


def test_an_orthogonal_frame_has_its_closed_form():
    c = 5
    frame = 3.0 * torch.eye(c, dtype=torch.float64)
    assert nc2_classifier(frame, "equinorm").value == 0.0
    assert nc2_classifier(frame, "equiangular").value == pytest.approx(1 / (c - 1))
    etf = math.sqrt(2 - 2 * math.sqrt((c - 1) / c))
    assert nc2_classifier(frame, "etf").value == pytest.approx(etf, rel=FLOAT64)
    # As class means it is centred first, and is a simplex.
    assert nc2(frame, torch.arange(c), "etf").value < 1e-14


def test_norms_of_three_four_and_five_have_the_unbiased_deviation():
    rows = torch.diag(torch.tensor([3.0, 4.0, 5.0]))
    assert nc2_classifier(rows, "equinorm").value == pytest.approx(0.25, rel=FLOAT64)


def in_numpy(means, variant):
    """The formula on the whole (C, C) matrix at once."""
    m = means.numpy()
    c, norms = len(m), np.sqrt((m**2).sum(1))
    if variant == "equinorm":
        return np.std(norms, ddof=1) / np.mean(norms)
    if variant == "equiangular":
        cosines = (m @ m.T / np.outer(norms, norms))[~np.eye(c, dtype=bool)]
        return np.mean(np.abs(cosines + 1 / (c - 1)))
    return zhu_distance(m @ m.T)


def zhu_distance(gram):
    c = len(gram)
    target = (np.eye(c) - np.ones((c, c)) / c) / np.sqrt(c - 1)
    return np.linalg.norm(gram / np.linalg.norm(gram) - target)


@pytest.mark.parametrize("variant", NC2_VARIANTS)
def test_means_are_centred_on_the_mean_of_class_means(variant):
    g = torch.Generator().manual_seed(4)
    means = torch.randn(4, 6, dtype=torch.float64, generator=g)
    x, y = clouds(means, [2, 9, 30, 4])
    truth = in_numpy(means - means.mean(0), variant)
    value = nc2(x + 7.0, y, variant)
    assert value.value == pytest.approx(truth, rel=1e-11)
    assert value.lower <= truth <= value.upper
    # The mean of all samples is another one, and gives another number.
    other = in_numpy(means - x.mean(0), variant)
    assert abs(other - truth) > 1e-3
    # Four classes among nine, the others without rows.
    spread = torch.tensor([0, 3, 5, 8])[y]
    sparse = nc2(x, spread, variant, num_classes=9).value
    assert sparse == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("num_classes", [2, 7, 515])
def test_classifier_rows_are_taken_as_they_are(num_classes):
    g = torch.Generator().manual_seed(6)
    w = torch.randn(num_classes, 9, dtype=torch.float64, generator=g) + 0.5
    w = w * torch.linspace(1, 3, num_classes).double()[:, None]
    for variant in NC2_VARIANTS:
        value, truth = nc2_classifier(w, variant), in_numpy(w, variant)
        assert value.value == pytest.approx(truth, rel=1e-11)
        assert value.lower <= truth <= value.upper


def test_the_classifier_against_the_means_is_its_formula():
    g = torch.Generator().manual_seed(8)
    means = torch.randn(5, 7, dtype=torch.float64, generator=g)
    w = (
        means
        - means.mean(0)
        + 0.3 * torch.randn(5, 7, dtype=torch.float64, generator=g)
    )
    x, y = clouds(means, [3, 3, 8, 2, 5])
    m = (means - means.mean(0)).numpy()
    v = w.numpy()
    gap = v / np.linalg.norm(v) - m / np.linalg.norm(m)
    value = nc3(x, y, w)
    assert value.value == pytest.approx((gap**2).sum(), rel=1e-11)
    assert value.lower <= (gap**2).sum() <= value.upper
    assert nc3(x, y, w, "zhu").value == pytest.approx(zhu_distance(v @ m.T), rel=1e-11)
    # Without rows of class 2 its row of the classifier takes no part.
    kept = [0, 1, 3, 4]
    part = y != 2
    m = means[kept] - means[kept].mean(0)
    gap = w[kept] / w[kept].norm() - m / m.norm()
    assert nc3(x[part], y[part], w).value == pytest.approx(float(gap.square().sum()))


def test_many_more_classes_than_features_are_the_whole_matrix_too():
    g = torch.Generator().manual_seed(3)
    means = torch.randn(90, 4, dtype=torch.float64, generator=g)
    w = means + 2.0 * torch.randn(90, 4, dtype=torch.float64, generator=g)
    m = means - means.mean(0)
    truth = zhu_distance((w @ m.mT).numpy())
    value = nc3(means, torch.arange(90), w, "zhu")
    assert value.value == pytest.approx(truth, rel=1e-12)
    assert value.lower <= truth <= value.upper
    # No 90 vectors in four dimensions come nearer than this to a simplex.
    assert nc2(means, torch.arange(90)).value >= (2 - 2 * (4 / 89) ** 0.5) ** 0.5


def test_duality_knows_sign_and_shape():
    means = simplex(4, 6, seed=3)
    y = torch.arange(4)
    assert nc3(means, y, -means).value == pytest.approx(4.0, rel=FLOAT64)
    assert nc3(means, y, -means, "zhu").value == pytest.approx(2.0, rel=FLOAT64)
    # Proportional to means that are no simplex: self-dual, but no simplex.
    skew = torch.diag(torch.tensor([1.0, 2.0, 5.0]).double())
    centred = skew - skew.mean(0)
    assert nc3(skew, torch.arange(3), 2.0 * centred).value < 1e-14
    assert nc3(skew, torch.arange(3), 2.0 * centred, "zhu").value > 0.1


def test_what_has_no_angle_or_norm_is_degenerate():
    y = torch.arange(3)
    line = torch.tensor([[-1.0], [0.0], [1.0]]).double()
    assert nc2(line, y, "equiangular").status == "degenerate"
    # Norms 1, 0, 1.
    assert nc2(line, y, "equinorm").value == pytest.approx(3**0.5 / 2)
    point = torch.ones(3, 2).double()
    assert {nc2(point, y, v).status for v in NC2_VARIANTS} == {"degenerate"}
    assert nc2_classifier(torch.zeros(3, 2)).status == "degenerate"
    assert nc2_classifier(torch.ones(1, 2)).status == "degenerate"
    assert nc2_classifier(torch.tensor([[1.0], [torch.nan]])).status == "nonfinite"
    assert nc3(point, y, torch.eye(3)[:, :2]).status == "degenerate"
    assert nc3(simplex(3, 4), y, torch.zeros(3, 4)).status == "degenerate"
    assert nc3(simplex(3, 4), y, torch.full((3, 4), torch.inf)).status == "nonfinite"


def test_summaries_give_the_same_and_refuse_what_does_not_fit():
    x, y = clouds(simplex(3, 4) + 0.1 * torch.eye(3, 4), [4, 5, 6])
    moments = ClassMoments(3, 4, scatter="trace")
    moments.update(x, y)
    summary = moments.compute()
    w = torch.ones(3, 4).double() + torch.eye(3, 4)
    assert nc2_of(summary, "etf").value == pytest.approx(nc2(x, y, "etf").value)
    assert nc3_of(summary, w).value == pytest.approx(nc3(x, y, w).value)
    with pytest.raises(ShapeError, match="must have 4 columns"):
        nc3_of(summary, w[:, :3])
    with pytest.raises(ShapeError, match=r"classifier of 3 classes.*got 2"):
        nc3_of(summary, w[:2])
    with pytest.raises(UnknownNameError, match="equinorm, equiangular, etf"):
        nc2(x, y, "norm")
    with pytest.raises(UnknownNameError, match="papyan, zhu"):
        nc3(x, y, w, "pinv")
