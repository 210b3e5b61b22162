"""NC4 and the effective depth."""

import numpy as np
import pytest
import torch
from tolerances import STANDARD_ERRORS

from spectrank.collapse.features import effective_depth, nc4, nc4_of, nearest_centre
from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.moments import ClassMoments


def statistics(x, y, num_classes):
    moments = ClassMoments(num_classes, x.shape[1], scatter="trace")
    moments.update(x, y)
    return moments.compute()


def cloud(seed, num, num_classes, dim):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(num_classes, (num,), generator=g)
    centres = torch.randn(num_classes, dim, dtype=torch.float64, generator=g)
    return centres[y] + torch.randn(num, dim, dtype=torch.float64, generator=g), y


def nearest_by_loops(x, y):
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in classes])
    return np.array(
        [classes[np.argmin([np.sum((r - m) ** 2) for m in means])] for r in x]
    )


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_nearest_centres_are_those_of_the_loops(offset):
    x, y = cloud(0, 2500, 7, 5)
    x = x + offset
    truth = nearest_by_loops(x.numpy(), y.numpy())
    found = nearest_centre(statistics(x, y, 7), x)
    assert np.array_equal(found.numpy(), truth)
    logits = torch.randn(2500, 7, generator=torch.Generator().manual_seed(1))
    share = float((truth != logits.argmax(1).numpy()).mean())
    assert nc4(x, y, logits).value == share
    value = nc4(x, y, logits.argmax(1))
    assert (value.value, value.lower, value.upper) == (share, share, share)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_and_missing_classes_do_not_change_the_nearest(scale):
    x, y = cloud(3, 200, 4, 3)
    truth = nearest_by_loops(x.numpy(), y.numpy())
    spread = torch.tensor([2, 3, 5, 11])
    # Statistics of ordinary rows, whose means and origin are then scaled exactly.
    summary = statistics(x, spread[y], 12)
    from dataclasses import replace

    scaled = replace(
        summary, origin=summary.origin * scale, shifts=summary.shifts * scale
    )
    found = nearest_centre(scaled, x * scale)
    assert np.array_equal(found.numpy(), spread[torch.from_numpy(truth)].numpy())


def test_a_collapsed_layer_with_agreeing_network_reads_zero():
    y = torch.arange(3).repeat(5)
    x = torch.eye(3)[y] + 1e-6
    assert nc4(x, y, y).value == 0.0
    assert nc4(x, y, (y + 1) % 3).value == 1.0


def test_predictions_that_are_no_classes_are_not_taken_for_some():
    x, y = cloud(9, 30, 3, 2)
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(4))
    logits[7, 1] = torch.nan
    value = nc4(x, y, logits)
    assert (value.status, value.reason) == (
        "nonfinite",
        "predictions have NaN logits",
    )
    logits[7, 1] = torch.inf
    assert nc4(x, y, logits).value == nc4(x, y, logits.argmax(1)).value
    with pytest.raises(DomainError, match=r"integer dtype.*float32; .*logit > 0"):
        nc4(x, y, logits[:, 0])
    ignored = torch.where(y == 2, -100, y)
    with pytest.raises(DomainError, match=r"in \[0, K\), got -100; leave rows"):
        nc4(x, ignored, y)


def test_a_sample_of_rows_covers_the_share_of_all():
    x, y = cloud(5, 3000, 5, 4)
    guesses = torch.randint(5, (3000,), generator=torch.Generator().manual_seed(0))
    summary = statistics(x, y, 5)
    truth = nc4_of(summary, x, guesses).value
    for seed in (0, 1, 2):
        g = torch.Generator().manual_seed(seed)
        kept = torch.randperm(3000, generator=g)[:400]
        value = nc4_of(summary, x[kept], guesses[kept], num_rows=3000)
        assert value.error_kind == "stderr"
        assert value.lower <= truth <= value.upper
        # Hypergeometric: without replacement the error is smaller by (N-n)/(N-1).
        error = (truth * (1 - truth) / 400 * 2600 / 2999) ** 0.5
        assert value.upper - value.value == pytest.approx(
            STANDARD_ERRORS * error, rel=0.1
        )
    # No mismatch in a sample does not prove that there is none.
    agreed = nc4_of(summary, x[:50], nearest_centre(summary, x[:50]), num_rows=3000)
    assert agreed.value == 0.0
    assert agreed.upper > 0.01


def test_depth_is_the_first_layer_that_decides_like_the_network():
    shares = [0.4, 0.1, 0.02, 0.03, 0.0]
    assert effective_depth(shares).value == 5.0
    assert effective_depth(shares, tolerance=0.02).value == 3.0
    assert effective_depth(shares, tolerance=0.5).value == 1.0
    assert effective_depth([float("nan"), 0.0]).value == 2.0
    never = effective_depth([0.4, 0.2], tolerance=0.1)
    assert never.status == "degenerate"
    assert "none of 2 layers" in never.reason


def test_what_cannot_be_compared_is_refused_or_said():
    x, y = cloud(1, 6, 2, 3)
    with pytest.raises(ShapeError, match=r"predictions must be \(6,\)"):
        nc4(x, y, y[:4])
    with pytest.raises(DomainError, match="at least the 6 rows given, got 5"):
        nc4_of(statistics(x, y, 2), x, y, num_rows=5)
    with pytest.raises(DomainError, match="tolerance must lie in"):
        effective_depth([0.1], tolerance=1.5)
    none = nc4_of(statistics(x, y, 2), x[:0], y[:0], num_rows=6)
    assert none.status == "degenerate"
    x[0, 0] = torch.inf
    assert nc4(x, y, y).status == "nonfinite"
