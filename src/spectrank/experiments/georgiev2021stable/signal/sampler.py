"""The sampler: stable rank of every draw, participation ratio of the law, directions.

No input enters. Matrices are drawn in float64 and decomposed by NumPy's SVD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from scipy.special import betainc

from spectrank.experiments.claims import Claim
from spectrank.experiments.georgiev2021stable.claims import KEY
from spectrank.experiments.georgiev2021stable.estimates import kolmogorov_distances
from spectrank.experiments.georgiev2021stable.figures import axes, curve, listed
from spectrank.experiments.georgiev2021stable.signal import spectra
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
_FAR = 0.08

_FIXED = ("flat", "spike", "power", "exp")
_RANDOM = ("mp-spike", "slice")
SPECTRA = (*_FIXED, *_RANDOM, "temper")
"""Spectra with a stable rank to choose; all but ``temper`` in closed form."""

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


def sampler(size: SamplerSize) -> Part:
    """Return the part on the sampler.

    Args:
        size: How much is drawn.

    Returns:
        The part.
    """
    claims = (_exact(size), _fixed(size), *(_ratio(x, size) for x in _RANDOM))
    claims = (*claims, _haar(size))

    def run(seed: int, tick: Tick) -> PartResult:
        drawn, directions = {}, {}
        # One thread: small decompositions do not gain from a second one.
        with single_threaded(torch.device("cpu")):
            for name in SPECTRA:
                drawn[name] = _spectra(name, size, seed)
                tick()
            for name in _ALL:
                directions[name] = _directions(name, size, seed)
                tick()
        exact, fixed, *ratios, haar = claims
        rows = [*_exact_rows(exact, drawn, seed), *_fixed_rows(fixed, drawn, seed)]
        for name, claim in zip(_RANDOM, ratios, strict=True):
            rows += _ratio_rows(claim, name, drawn[name].ratios, seed)
        rows += _haar_rows(haar, directions, seed)
        return PartResult(tuple(rows), _figures(claims))

    settings = {
        "size": asdict(size),
        "shapes": [list(shape) for shape in _SHAPES],
        "stable_ranks": list(_RANKS),
        "directions": [list(_HAAR_SHAPE), _HAAR_RANK],
    }
    return Part("sampler", claims, settings, len(SPECTRA) + len(_ALL), run)


def _exact(size: SamplerSize) -> Claim:
    return ours(
        "sampler.stable-rank",
        "digits",
        f"Every matrix drawn with one of {', '.join(SPECTRA)} has the stable rank "
        "asked for (largest relative error).",
        protocol=_protocol(size),
        quantity="largest_relative_error",
        expected=1e-10,
        tolerance=0.0,
        relation="at_most",
    )


def _fixed(size: SamplerSize) -> Claim:
    return ours(
        "sampler.participation-ratio.fixed",
        "digits",
        f"Every matrix drawn with one of {', '.join(_FIXED)} has the participation "
        "ratio of its singular values' definition (largest relative error).",
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


def _haar(size: SamplerSize) -> Claim:
    m, n = _HAAR_SHAPE
    largest = 1.45 / math.sqrt(size.num_directions)
    return ours(
        "sampler.uniform-directions",
        "digits",
        f"W^T e and W e of all spectra, {', '.join(_ALL)}, have uniform directions: "
        "their first coordinate has the law of a uniform one (largest Kolmogorov "
        "distance of all).",
        protocol=f"{m} x {n} matrices, stable rank {_HAAR_RANK:g} where there is a "
        f"choice; {size.num_seeds} seeds x {size.num_directions} matrices, e the first "
        f"unit vector; under the law the largest distance is about {largest:.2g}",
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


@final
@dataclass(frozen=True, eq=False)
class _Drawn:
    """What was drawn of one spectrum, each (R, shapes, ranks).

    Attributes:
        errors: Largest relative error of the stable rank.
        ratios: r^2 over the mean of sum t^2.
        spreads: Largest relative error of the participation ratio of any one matrix.
    """

    errors: np.ndarray
    ratios: np.ndarray
    spreads: np.ndarray


def _spectra(name: str, size: SamplerSize, seed: int) -> _Drawn:
    found = _Drawn(*np.empty((3, size.num_seeds, len(_SHAPES), len(_RANKS))))
    for index in np.ndindex(found.errors.shape):
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
        a2 = (t**2).sum(1)
        found.errors[index] = np.abs(t.sum(1) / r - 1.0).max()
        found.ratios[index] = r**2 / a2.mean()
        if name in _FIXED:
            own = spectra.expected_a2(name, r, m, n)
            found.spreads[index] = np.abs(own / a2 - 1.0).max()
    return found


def _exact_rows(claim: Claim, drawn: Mapping[str, _Drawn], seed: int) -> list[Row]:
    errors = {name: x.errors for name, x in drawn.items()}
    return _largest_rows(claim, errors, seed)


def _fixed_rows(claim: Claim, drawn: Mapping[str, _Drawn], seed: int) -> list[Row]:
    return _largest_rows(claim, {name: drawn[name].spreads for name in _FIXED}, seed)


def _largest_rows(
    claim: Claim, errors: Mapping[str, np.ndarray], seed: int
) -> list[Row]:
    rows = [judge(claim, np.max([x.max((1, 2)) for x in errors.values()], axis=0))]
    for name, x in errors.items():
        rows += curve(claim, name, _RANKS, x.max(1), None, seed, metric=claim.quantity)
    return rows


def _ratio_rows(claim: Claim, name: str, found: np.ndarray, seed: int) -> list[Row]:
    expected = np.array(
        [
            [r**2 / spectra.expected_a2(name, r, m, n) for r in _RANKS]
            for m, n in _SHAPES
        ]
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


def _haar_rows(
    claim: Claim, directions: Mapping[str, np.ndarray], seed: int
) -> list[Row]:
    far = [
        kolmogorov_distances(found[:, side])
        for found in directions.values()
        for side in (0, 1)
    ]
    rows = [judge(claim, np.max(far, axis=0))]
    for name, found in directions.items():
        shares = np.stack([(found <= x).mean((1, 2)) for x in _LEVELS], 1)
        rows += curve(claim, name, _LEVELS, shares, _LEVELS, seed, metric="share_below")
    return rows


def _figures(claims: Sequence[Claim]) -> dict[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    exact, fixed, *ratios, haar = claims
    for claim, x, y in (
        (exact, "stable rank", "largest relative error of the stable rank"),
        (fixed, "stable rank", "largest relative error of the participation ratio"),
        *((claim, "stable rank", "participation ratio") for claim in ratios),
        (haar, "share under the uniform law", "share found"),
    ):
        found |= axes(claim, x, y=y, x_scale="linear", y_scale="linear")
    return found
