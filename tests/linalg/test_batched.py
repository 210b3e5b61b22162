"""Batches: the errors cover the truth, and no matrix feels its neighbours."""

import math

import pytest
import torch
from matrices import named_spectrum

from spectrank.errors import ShapeError
from spectrank.linalg import spectrum
from spectrank.linalg.batched import spectra

DECAYS = {
    "flat": torch.ones(20, dtype=torch.float64),
    "quarter-circle": named_spectrum("quarter-circle", 20),
    "steep": torch.logspace(0, -11, 20, dtype=torch.float64),
    "deficient": torch.tensor([3.0, 2.0, 1.0] + [0.0] * 17, dtype=torch.float64),
    "twins": torch.tensor([5.0, 5.0] + [1.0] * 18, dtype=torch.float64),
}


def frame(rows, generator):
    X = torch.randn(rows, 20, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(X).Q


def stack(m, n):
    generator = torch.Generator().manual_seed(0)
    return [
        frame(m, generator) @ torch.diag(s) @ frame(n, generator).T
        for s in DECAYS.values()
    ]


@pytest.mark.parametrize(("m", "n"), [(20, 20), (33, 20), (20, 2100)])
@pytest.mark.parametrize("needs", ["sigma", "small_end"])
def test_every_value_is_within_its_error_of_the_prescribed_one(m, n, needs):
    found = spectra(stack(m, n), [needs])
    for truth, s in zip(DECAYS.values(), found, strict=True):
        # Building a matrix of a given spectrum rounds too, by QR and two products.
        slack = 40 * 2.3e-16 * float(truth[0])
        assert bool(((s.sigma - truth).abs() <= s.sigma_error + slack).all())
        norm = float(torch.linalg.vector_norm(truth))
        assert s.frobenius.lower - slack <= norm <= s.frobenius.upper + slack
        fourth = float(truth.pow(4).sum() ** 0.25)
        assert s.schatten4.lower - slack <= fourth <= s.schatten4.upper + slack
        assert s.sigma_max.lower - slack <= float(truth[0]) <= s.sigma_max.upper + slack


def test_the_small_end_is_seen_where_it_is_asked_for():
    found = spectra(stack(33, 20), ["small_end"])
    routes = dict(zip(DECAYS, [s.route for s in found], strict=True))
    assert routes == {
        "flat": "gram",
        "quarter-circle": "gram",
        "steep": "svd",
        "deficient": "svd",
        "twins": "gram",
    }
    steep = found[2]
    assert float(steep.sigma[-1]) == pytest.approx(1e-11, rel=1e-3)
    # Without being asked, the Gram matrix's floor is admitted.
    assert spectra(stack(33, 20), ["sigma"])[2].num_resolved < 20


@pytest.mark.parametrize(("m", "n"), [(7, 5), (5, 7), (64, 64), (33, 17), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_batch_agrees_with_the_single_route_within_both_errors(m, n, dtype):
    generator = torch.Generator().manual_seed(1)
    matrices = [
        torch.randn(m, n, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(6)
    ]
    for W, s in zip(matrices, spectra(matrices, ["small_end"]), strict=True):
        one = spectrum(W, ["small_end"])
        both = s.sigma_error + one.sigma_error
        assert bool(((s.sigma - one.sigma).abs() <= both).all())
        assert s.route == one.route
        assert (s.shape, s.status) == (one.shape, one.status)
        assert s.frobenius.value == pytest.approx(one.frobenius.value, rel=1e-14)


@pytest.mark.parametrize(("m", "n"), [(7, 5), (64, 64), (33, 17), (300, 40)])
def test_the_bits_do_not_depend_on_the_neighbours(m, n):
    generator = torch.Generator().manual_seed(2)
    matrices = [torch.randn(m, n, generator=generator) for _ in range(9)]
    matrices[4] = torch.outer(matrices[4][:, 0], matrices[4][0])
    together = spectra(matrices, ["small_end"])
    reversed_ = spectra(matrices[::-1], ["small_end"])[::-1]
    for W, a, b in zip(matrices, together, reversed_, strict=True):
        (alone,) = spectra([W], ["small_end"])
        for other in (b, alone):
            assert torch.equal(a.sigma, other.sigma)
            assert torch.equal(a.sigma_error, other.sigma_error)
            assert (a.frobenius, a.sigma_max) == (other.frobenius, other.sigma_max)
            assert a.route == other.route


def test_strange_matrices_are_measured_one_by_one_and_harm_no_other():
    good = torch.diag(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64))
    nan = good.clone()
    nan[0, 1] = math.nan
    strange = {
        "degenerate": torch.zeros_like(good),
        "nonfinite": nan,
        "large": good * 1e200,
        "small": good * 1e-200,
        "infinite": good * math.inf,
    }
    together = spectra([good, *strange.values(), good], ["sigma"])
    # Each with a good one alone too: one that breaks a batch would hide the others.
    apart = [spectra([good, W], ["sigma"]) for W in strange.values()]
    for first, *odd, last in [together, *([*pair, pair[0]] for pair in apart)]:
        assert first.sigma.tolist() == [4.0, 2.0, 1.0] == last.sigma.tolist()
        assert first.route == last.route == "gram"
        assert odd
    for found in (together[1:-1], [pair[1] for pair in apart]):
        words = [s.status for s in found]
        assert words == ["degenerate", "nonfinite", "ok", "ok", "nonfinite"]
        for s, scale in ((found[2], 1e200), (found[3], 1e-200)):
            truth = [4 * scale, 2 * scale, scale]
            assert s.sigma.tolist() == pytest.approx(truth, rel=1e-13, abs=0.0)


def test_nothing_and_empty_matrices_are_answered():
    assert spectra([], ["sigma"]) == []
    (s,) = spectra([torch.empty(0, 4)], ["sigma"])
    assert (s.status, s.shape) == ("degenerate", (0, 4))


def test_matrices_are_left_as_they_were():
    W = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    before = W.clone()
    spectra([W, W], ["small_end"])
    assert torch.equal(W, before)


@pytest.mark.parametrize(
    "matrices", [[torch.eye(2), torch.eye(3)], [torch.ones(2), torch.ones(2)]]
)
def test_other_shapes_are_refused(matrices):
    with pytest.raises(ShapeError, match="2-D matrices of one shape"):
        spectra(matrices, ["sigma"])
