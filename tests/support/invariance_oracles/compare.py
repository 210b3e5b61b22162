"""What a list of laws gets wrong (the rate test) and what it misses (brute force)."""

from dataclasses import dataclass

import numpy as np
import torch

from invariance_oracles.brute import (
    Space,
    brute_force,
    gradient_of,
    jacobian_rank,
)
from invariance_oracles.case import draws
from invariance_oracles.forms import Layout, law_vectors

# A false law has a rate of 1e-3 or more, a right one rounding.
_RATE = 1e-9


def rates(laws, case, *, seed=0, num_draws=6):
    """Rate test: largest |<grad h, g>| / (|grad h| |g|) of each law over draws.

    Both norms are over the parameters of the law. Rounding is 1e-15 or so; a false law
    has 1e-3 or more.
    """
    layout = Layout(case.module())
    source = draws(case, torch.Generator().manual_seed(seed))
    found = {law.name: 0.0 for law in laws}
    vectors = {law.name: law_vectors(law, layout) for law in laws}
    for _ in range(num_draws):
        weights, gradient = next(source)
        w = layout.flat(weights).numpy()
        g = layout.flat(gradient).numpy()
        for name, rows in vectors.items():
            for row in rows:
                slope = gradient_of(row, layout, w)
                touched = slope != 0
                size = np.linalg.norm(slope) * np.linalg.norm(g[touched])
                # A gradient that is exactly zero leaves rounding over rounding.
                size = max(size, 1e-3 * np.linalg.norm(slope) * np.linalg.norm(g))
                if size > 0:
                    found[name] = max(found[name], abs(slope @ g) / size)
    return found


@dataclass(frozen=True)
class Comparison:
    """Laws that are wrong, laws that are missing, and the counts."""

    case: str
    expected: int
    brute: int | None
    claimed: int
    wrong: dict[str, float]
    missing: tuple[str, ...]

    @property
    def right(self):
        return (
            not self.wrong
            and not self.missing
            and self.claimed == self.expected
            and self.brute in (None, self.expected)
        )

    def __str__(self):
        lines = [
            f"{self.case}: {'ok' if self.right else 'WRONG'}; expected "
            f"{self.expected}, brute force {self.brute}, claimed {self.claimed}"
        ]
        lines += [
            f"  false law {name}: {rate:.1e}" for name, rate in self.wrong.items()
        ]
        lines += [f"  missing: {text}" for text in self.missing]
        return "\n".join(lines)


def quick_compare(case, laws) -> Comparison:
    """Compare with the count of the case alone: no brute force, so nothing is named.

    It is as strict where the count is known to be that of all laws: laws that pass the
    rate test and are as many span all there is.
    """
    layout = Layout(case.module())
    rows = [row for law in laws for row in law_vectors(law, layout)]
    claimed = jacobian_rank(_normalised(rows, layout), layout)
    return Comparison(case.name, case.expected, None, claimed, _wrong(case, laws), ())


def compare(case, laws, *, space: Space | None = None) -> Comparison:
    """Compare the span of a list of laws with the space of all laws."""
    space = brute_force(case) if space is None else space
    layout = space.layout
    rows = [row for law in laws for row in law_vectors(law, layout)]
    rows = _normalised(rows, layout)
    claimed = jacobian_rank(rows, layout)
    span = _span(np.concatenate([rows, _products(rows, layout)]))
    # Laws of the net that the list does not reach, as a basis of their own.
    rest = space.basis - span.T @ (span @ space.basis)
    _, s, right = np.linalg.svd(rest, full_matrices=False)
    missing = Space(layout, space.basis @ right[s > 1e-6].T, 0.0, 0.0).describe()
    return Comparison(
        case.name,
        case.expected,
        space.count,
        claimed,
        _wrong(case, laws),
        tuple(missing),
    )


def _wrong(case, laws):
    return {name: rate for name, rate in rates(laws, case).items() if rate > _RATE}


def _normalised(rows, layout):
    rows = np.array([np.zeros(layout.num_unknowns), *rows])[1:]
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _span(rows):
    if not len(rows):
        return rows
    _, s, basis = np.linalg.svd(rows, full_matrices=False)
    return basis[s > 1e-9]


def _products(rows, layout):
    """Products of the linear laws among the rows: laws that say nothing new."""
    linear = rows[~rows[:, : layout.num_monomials].any(1), layout.num_monomials :]
    i, j = layout.upper
    found = [np.zeros((0, layout.num_unknowns))]
    for k, a in enumerate(linear):
        for b in linear[k:]:
            product = np.zeros(layout.num_unknowns)
            both = a[i] * b[j] + a[j] * b[i]
            product[: layout.num_monomials] = np.where(i == j, both / 2, both)
            found.append(product[None] / np.linalg.norm(product))
    return np.concatenate(found)
