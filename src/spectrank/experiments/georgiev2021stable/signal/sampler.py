"""The sampler: stable rank of every draw, participation ratio of the law, directions.

No input enters. Matrices are drawn in float64 and decomposed by NumPy's SVD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from scipy.interpolate import BSpline
from scipy.optimize import brentq
from scipy.special import betainc

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.claims import KEY
from spectrank.experiments.georgiev2021stable.estimates import kolmogorov_distances
from spectrank.experiments.georgiev2021stable.figures import axes, curve, listed
from spectrank.experiments.georgiev2021stable.signal import laws
from spectrank.experiments.georgiev2021stable.signal.claims import ours
from spectrank.experiments.papers import Part, PartResult, Tick
from spectrank.experiments.seeds import derive_generator
from spectrank.experiments.verdicts import Row, judge
from spectrank.linalg.ensembles.make import ensemble
from spectrank.train.fleet.threads import single_threaded

_SHAPES = ((24, 36), (36, 24), (30, 30))
# mp-spike draws up to about 8 here; at 5 none is ever refused.
_RANKS = (1.5, 3.0, 5.0)
_HAAR_SHAPE = (6, 9)
_HAAR_RANK = 2.0
# Kolmogorov distance from the uniform direction's law.
_FAR = 0.06

SPECTRA = ("flat", "spike", "mp-spike", "slice", "power", "exp", "temper")
_LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
_ALL = (*SPECTRA, "orthogonal", "gaussian")


@final
@dataclass(frozen=True)
class SamplerSize:
    """How much is drawn.

    Attributes:
        num_seeds: Independent replicates.
        num_matrices: For each spectrum, shape and stable rank.
        num_directions: Matrices for each spectrum whose directions are compared.
    """

    num_seeds: int
    num_matrices: int
    num_directions: int


def expected_a2(spectrum: str, r: float, m: int, n: int) -> float:
    r"""Return :math:`E \\sum t_i^2` of a spectrum with largest value one.

    Written down from each law's definition, apart from the library's moments.
    Source (derived): tests/experiments/georgiev2021stable_signal.

    Args:
        spectrum: One of ``SPECTRA`` but ``temper``, which has no closed form.
        r: Stable rank.
        m: Rows.
        n: Columns.

    Returns:
        The moment; r^2 over it is the participation ratio.
    """
    p = min(m, n)
    if spectrum == "mp-spike":
        return r**2 / laws.mp_spike_ratio(r, m, n)
    if spectrum == "slice":
        return 1.0 + (p - 1) * _slice_square(p - 1, r - 1.0)
    squares: Mapping[str, Callable[[], Sequence[float]]] = {
        "flat": lambda: laws.flat_squares(r),
        "spike": lambda: laws.spike_squares(r, m, n),
        "power": lambda: _decay(np.log(np.arange(1.0, p + 1.0)), r),
        "exp": lambda: _decay(np.arange(float(p)), r),
    }
    return math.fsum(t * t for t in squares[spectrum]())


def _decay(rate: np.ndarray, r: float) -> list[float]:
    """exp(-a rate) with the a whose sum is r, by bisection."""
    a = brentq(lambda a: np.exp(-a * rate).sum() - r, 0.0, 100.0, xtol=1e-14)
    return list(np.exp(-a * rate))


def _slice_square(q: int, total: float) -> float:
    """E t^2 of one of q uniform numbers given their sum, by quadrature."""

    # The density of a sum of uniform numbers is the cardinal B-spline.
    def density(num: int, x: np.ndarray) -> np.ndarray:
        spline = BSpline.basis_element(np.arange(num + 1.0), extrapolate=False)
        return np.asarray(np.nan_to_num(spline(x)))

    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, weights = (nodes + 1.0) / 2.0, weights / 2.0
    rest = density(q - 1, total - t)
    return float((weights * t**2) @ rest / (weights @ rest))


def sampler(size: SamplerSize) -> Part:
    """Return the part on the sampler.

    Args:
        size: How much is drawn.

    Returns:
        The part.
    """
    exact = {name: _exact(name, size) for name in SPECTRA}
    ratio = {name: _ratio(name, size) for name in SPECTRA if name != "temper"}
    haar = {name: _haar(name, size) for name in _ALL}
    claims = (*exact.values(), *ratio.values(), *haar.values())

    def run(seed: int, tick: Tick) -> PartResult:
        rows: list[Row] = []
        with single_threaded(torch.device("cpu")):
            for name in _ALL:
                if name in exact:
                    errors, ratios = _spectra(name, size, seed)
                    rows += _exact_rows(exact[name], errors, seed)
                    if name in ratio:
                        rows += _ratio_rows(ratio[name], name, ratios, seed)
                found = _directions(name, size, seed)
                rows += _haar_rows(haar[name], found, seed)
                tick()
        return PartResult(tuple(rows), _figures(exact, ratio, haar))

    settings = {
        "size": asdict(size),
        "shapes": [list(shape) for shape in _SHAPES],
        "stable_ranks": list(_RANKS),
        "directions": [list(_HAAR_SHAPE), _HAAR_RANK],
    }
    return Part("sampler", claims, settings, len(_ALL), run)


def _exact(name: str, size: SamplerSize) -> Claim:
    return ours(
        f"sampler.stable-rank.{name}",
        "digits",
        f"Every matrix drawn with spectrum {name!r} has the stable rank asked for "
        "(largest relative error).",
        protocol=_protocol(size),
        quantity="largest_relative_error",
        expected=1e-10,
        tolerance=0.0,
        relation="at_most",
    )


def _ratio(name: str, size: SamplerSize) -> Claim:
    return ours(
        f"sampler.participation-ratio.{name}",
        "digits",
        f"Spectrum {name!r} has the participation ratio of its law, r^2 / E sum t^2 "
        "(mean over shapes and stable ranks of found over expected).",
        protocol=_protocol(size),
        quantity="ratio_to_prediction",
        tolerance=0.02,
    )


def _haar(name: str, size: SamplerSize) -> Claim:
    m, n = _HAAR_SHAPE
    own = name in ("orthogonal", "gaussian")
    rank = "" if own else f", stable rank {_HAAR_RANK:g}"
    return ours(
        f"sampler.uniform-directions.{name}",
        "digits",
        f"W^T e and W e of spectrum {name!r} have uniform directions: their first "
        "coordinate has the law of a uniform one (larger Kolmogorov distance).",
        protocol=f"{m} x {n} matrices{rank}; {size.num_seeds} seeds x "
        f"{size.num_directions} matrices, e the first unit vector; under the law the "
        f"larger distance is about {1.1 / math.sqrt(size.num_directions):.2g}",
        quantity="kolmogorov_distance",
        expected=_FAR,
        tolerance=0.0,
        relation="at_most",
    )


def _protocol(size: SamplerSize) -> str:
    shapes = ", ".join(f"{m} x {n}" for m, n in _SHAPES)
    return (
        f"{shapes} at stable ranks {listed(_RANKS)}; {size.num_seeds} seeds x "
        f"{size.num_matrices} matrices each, float64, singular values by an SVD"
    )


def _spectra(name: str, size: SamplerSize, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest relative errors and found rho over expected, both (R, shapes, ranks)."""
    errors = np.empty((size.num_seeds, len(_SHAPES), len(_RANKS)))
    ratios = np.empty_like(errors)
    for index in np.ndindex(errors.shape):
        replicate, shape, rank = index
        (m, n), r = _SHAPES[shape], _RANKS[rank]
        generator = derive_generator(
            seed, KEY, "sampler", name, f"{m} x {n}", r, replicate
        )
        W = ensemble(m, n, stable_rank=r, spectrum=name).sample(
            generator, num=size.num_matrices
        )
        t = np.linalg.svd(W.numpy(), compute_uv=False) ** 2
        t /= t[:, :1]
        errors[index] = np.abs(t.sum(1) / r - 1.0).max()
        a2 = (t**2).sum(1).mean()
        ratios[index] = r**2 / a2
    return errors, ratios


def _exact_rows(claim: Claim, errors: np.ndarray, seed: int) -> list[Row]:
    return [
        judge(claim, errors.max((1, 2))),
        *curve(
            claim,
            "largest of all shapes",
            _RANKS,
            errors.max(1),
            [0.0] * len(_RANKS),
            seed,
            metric="largest_relative_error",
        ),
    ]


def _ratio_rows(claim: Claim, name: str, found: np.ndarray, seed: int) -> list[Row]:
    expected = np.array(
        [[r**2 / expected_a2(name, r, m, n) for r in _RANKS] for m, n in _SHAPES]
    )
    rows = [judge(claim, (found / expected).mean((1, 2)))]
    for i, (m, n) in enumerate(_SHAPES):
        rows += curve(
            claim,
            f"{m} x {n}",
            _RANKS,
            found[:, i],
            expected[i],
            seed,
            metric="participation_ratio",
        )
    return rows


def _directions(name: str, size: SamplerSize, seed: int) -> np.ndarray:
    """(R, 2, num_directions) first coordinates of W^T e and W e, as probabilities."""
    m, n = _HAAR_SHAPE
    r = None if name in ("orthogonal", "gaussian") else _HAAR_RANK
    law = ensemble(m, n, stable_rank=r, spectrum=name)
    found = np.empty((size.num_seeds, 2, size.num_directions))
    for replicate in range(size.num_seeds):
        generator = derive_generator(seed, KEY, "sampler", name, "haar", replicate)
        W = law.sample(generator, num=size.num_directions).numpy()
        for side, x in enumerate((W[:, 0, :], W[:, :, 0])):
            u = x[:, 0] / np.linalg.norm(x, axis=1)
            # (1 + u) / 2 of a uniform direction in R^d is Beta((d-1)/2, (d-1)/2).
            half = (x.shape[1] - 1) / 2.0
            found[replicate, side] = betainc(half, half, (1.0 + u) / 2.0)
    return found


def _haar_rows(claim: Claim, found: np.ndarray, seed: int) -> list[Row]:
    far = np.stack([kolmogorov_distances(found[:, side]) for side in (0, 1)], 1)
    rows = [judge(claim, far.max(1))]
    for side, series in enumerate(("W^T e", "W e")):
        shares = np.stack([(found[:, side] <= x).mean(-1) for x in _LEVELS], 1)
        rows += curve(
            claim, series, _LEVELS, shares, _LEVELS, seed, metric="share_below"
        )
    return rows


def _figures(
    exact: Mapping[str, Claim], ratio: Mapping[str, Claim], haar: Mapping[str, Claim]
) -> dict[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    for claims, x, y in (
        (exact, "stable rank", "largest relative error of the stable rank"),
        (ratio, "stable rank", "participation ratio"),
        (haar, "share under the uniform law", "share found"),
    ):
        for claim in claims.values():
            found |= axes(claim, x, y=y, x_scale="linear", y_scale="linear")
    return found
