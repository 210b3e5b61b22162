"""Distances to low rank against prescribed spectra and numpy, at hard scales."""

import math

import numpy as np
import pytest
import torch
from certificate_nets import NUMPY_ORDER, dense_distance
from tolerances import FLOAT64

from spectrank.collapse.certificates import NORMS, dist_to_rank
from spectrank.collapse.certificates.tails import add, ratio, tail_of_values, widen
from spectrank.errors import DomainError, UnknownNameError
from spectrank.linalg import Value, haar


def prescribed(sigma, m, n, seed):
    generator = torch.Generator().manual_seed(seed)
    u = haar(m, len(sigma), generator=generator, dtype=torch.float64)
    v = haar(n, len(sigma), generator=generator, dtype=torch.float64)
    return (u * torch.tensor(sigma, dtype=torch.float64)) @ v.mT


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_is_the_norm_of_the_values_left_out(scale, norm):
    sigma = [4.0, 2.0, 1.0, 1.0]
    W = prescribed([scale * s for s in sigma], 6, 9, 1)
    power = {"frobenius": 2, "spectral": math.inf, "nuclear": 1}[norm]
    for k in range(7):
        rest = np.array([*sigma[k:], 0.0])
        truth = scale * float(np.linalg.norm(rest, power))
        found = dist_to_rank(W, k, norm)
        # Zeros are 1e-8 in a Gram matrix, and the nuclear norm adds them.
        rel = 1e-7 if norm == "nuclear" else FLOAT64
        assert found.value == pytest.approx(truth, rel=rel, abs=1e-14 * scale)
        assert found.lower <= truth * (1 + FLOAT64) + 1e-14 * scale
        assert found.upper >= truth * (1 - FLOAT64)


@pytest.mark.parametrize("norm", NORMS)
def test_a_distance_far_below_the_largest_value_is_resolved(norm):
    # A Gram matrix alone would lose everything below 1e-8 of the first value.
    W = prescribed([1.0, 0.5, 3e-12, 1e-12], 30, 20, 2)
    found = dist_to_rank(W, 2, norm)
    assert found.value == pytest.approx(dense_distance(W, 2, norm), rel=2e-3)
    assert found.value == pytest.approx(
        np.linalg.norm(
            [3e-12, 1e-12], {"frobenius": 2, "nuclear": 1}.get(norm, np.inf)
        ),
        rel=2e-3,
    )


def test_the_distance_is_exactly_zero_where_it_has_to_be():
    W = prescribed([3.0, 1.0], 2, 5, 3)
    assert dist_to_rank(W, 2) == Value.exact(0.0)
    assert dist_to_rank(W, 9, "nuclear") == Value.exact(0.0)
    assert dist_to_rank(torch.zeros(3, 4), 0) == Value.exact(0.0)
    lost = dist_to_rank(torch.tensor([[math.nan, 1.0]]), 0)
    assert lost.status == "nonfinite"


def test_bad_requests_are_refused():
    with pytest.raises(DomainError, match="whole number from 0, got k=-1"):
        dist_to_rank(torch.eye(2), -1)
    with pytest.raises(UnknownNameError, match="norm must be one of"):
        dist_to_rank(torch.eye(2), 1, "fro")


@pytest.mark.parametrize("norm", NORMS)
def test_tails_of_given_values_are_norms(norm):
    sigma = torch.tensor([5.0, 3.0, 2.0], dtype=torch.float64)
    truth = np.linalg.norm(np.diag([3.0, 2.0]), NUMPY_ORDER[norm])
    assert tail_of_values(sigma, 1, norm).value == pytest.approx(truth, rel=FLOAT64)
    assert tail_of_values(sigma, 3, norm) == Value.exact(0.0)


def test_sums_keep_the_weaker_promise_and_both_errors():
    a = Value.around(2.0, 0.25, "certified")
    b = Value(1.0, 0.5, 2.0, "probabilistic", 1e-6)
    total = add(a, b)
    assert (total.value, total.error_kind, total.failure_probability) == (
        3.0,
        "probabilistic",
        1e-6,
    )
    assert total.lower == pytest.approx(2.25)
    assert total.upper == pytest.approx(4.25)
    assert total.lower < 2.25
    assert total.upper > 4.25
    # An end of zero or infinity must not become NaN on the way.
    assert add(Value.exact(0.0), Value.around(math.inf, 0.0)).value == math.inf
    wide = widen(a, 0.5)
    assert (wide.value, wide.lower, wide.upper) == (2.0, 1.25, 2.75)
    assert wide.error_kind == "rounding"
    assert ratio(a, Value.exact(0.0), "nought").status == "degenerate"
