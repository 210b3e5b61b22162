r"""Pair laws: what co-active units conserve together, and how fast other pairs drift.

For units u, v of one layer, D_uv = sum_b w_bu w_bv - sum_a w_ua w_va - b_u b_v is an
entry of the gap matrix. Its rate under gradient flow is zero where both units have the
same slope sigma'(z) on every sample; the rest is given by `gap_rate`. Slopes are those
that autograd uses: of ``torch.relu`` 1 iff z > 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.invariance.laws import GramTerm, Law, Laws

_SOURCE = "Le & Jegelka 2022, Lemma 2, second half (stated)"


def gap_rate(
    pre: Tensor, slope: Tensor, gradient: Tensor, *, post: Tensor | None = None
) -> Tensor:
    r"""Rate :math:`\dot D = -(H^T g + g^T H) + (\delta^T z + z^T \delta)` of a gap.

    D = (sum of W^T W over all that reads the layer) - W W^T - b b^T, delta = slope * g.
    Exact under gradient flow for any elementwise activation; unit: squared weight per
    unit of time. One step of gradient descent adds eta times this and eta^2 times the
    gap of the gradients. For H = slope * z (homogeneous of degree one) the entry is
    -sum_i (d_iv - d_iu)(g_iu z_iv - z_iu g_iv) and the diagonal zero.
    Source (derived): tests/invariance/test_pairs.py, against autograd.

    Args:
        pre: (N, n) pre-activations z, bias included; of a convolution N counts
            samples times positions.
        slope: (N, n) derivatives of the activation, as autograd has them.
        gradient: (N, n) gradients of the risk with respect to the post-activations, the
            factor 1/N of a mean included, through everything that reads the layer.
        post: (N, n) post-activations H; slope * pre where left out.

    Returns:
        (n, n) symmetric float64 tensor.

    Raises:
        ShapeError: The tensors do not have one shape of two axes.
    """
    given = [pre, slope, gradient] + ([] if post is None else [post])
    if pre.dim() != 2 or any(item.shape != pre.shape for item in given):
        shapes = ", ".join(str(tuple(item.shape)) for item in given)
        raise ShapeError(
            "pre, slope, gradient and post have one shape (samples, units), got "
            f"{shapes}; flatten positions into samples"
        )
    z, d, g = [item.detach().double() for item in given[:3]]
    h = d * z if post is None else post.detach().double()
    half = (d * g).T @ z - h.T @ g
    return half + half.T


def coactivation_classes(slopes: Tensor | np.ndarray) -> list[np.ndarray]:
    """Group units whose slopes agree on every sample.

    Args:
        slopes: (N, n) booleans (z > 0 for ``torch.relu``) or slopes; of a convolution
            N counts samples times positions.

    Returns:
        Sorted unit numbers of each class, the class of the lowest unit first.

    Raises:
        ShapeError: There are not two axes.
    """
    array = np.asarray(slopes)
    if array.ndim != 2:
        raise ShapeError(
            f"slopes have shape (samples, units), got {array.shape}; "
            "flatten positions into samples"
        )
    # Bytes of a column, not a hash of it: no two patterns are taken for one.
    found: dict[bytes, list[int]] = {}
    for unit, column in enumerate(np.ascontiguousarray(array.T)):
        found.setdefault(column.tobytes(), []).append(unit)
    return [np.array(units) for units in found.values()]


def restrict(law: Law, units: np.ndarray) -> Law:
    """The rows and columns of a matrix law that belong to some units.

    Args:
        law: Of form ``gram``, shape (n, n).
        units: Distinct numbers in [0, n), in the order wanted.

    Returns:
        The law of shape (len(units), len(units)); the name is kept, the count is that
        of a matrix law of these units for generic weights.

    Raises:
        DomainError: The law is not of form ``gram``, or units are not distinct numbers
            of its features.
    """
    n = law.shape[0]
    chosen = np.asarray(units, dtype=np.int64).reshape(-1)
    inside = len(chosen) and int(chosen.min()) >= 0 and int(chosen.max()) < n
    if law.form != "gram" or not inside or len(np.unique(chosen)) != len(chosen):
        raise DomainError(
            f"distinct units in [0, {n}) of a law of form gram are taken, got "
            f"{chosen.tolist()[:8]} of the form {law.form} in {law.name!r}; "
            "check the width of the layer"
        )
    terms = []
    for term in law.terms:
        assert isinstance(term, GramTerm)
        rows = chosen if term.rows is None else term.rows[chosen]
        terms.append(replace(term, rows=rows))
    made = tuple(terms)
    size = len(chosen)
    count = matrix_count(size, sum(term.num_columns for term in made))
    return replace(law, terms=made, shape=(size, size), count=count)


def matrix_count(num_units: int, num_edges: int) -> int:
    """Independent entries of a gap matrix, rk (2 n + 1 - rk) / 2, rk = min(n, edges).

    For generic weights of the n units with so many edges in and out of each.
    Source (derived): tests/invariance/test_pairs.py, rank of the Jacobian.

    Args:
        num_units: n.
        num_edges: Weights that enter or leave each unit, its biases included.

    Returns:
        At most n (n + 1) / 2.
    """
    rank = min(num_units, num_edges)
    return rank * (2 * num_units + 1 - rank) // 2


def pair_laws(
    candidates: Laws, slopes: Mapping[str, Tensor | np.ndarray], *, smallest: int = 2
) -> Laws:
    """Pair laws of the co-activation classes on the data given.

    They hold while the classes last. The diagonals repeat vertex laws. A class that is
    dead on all samples has no gradient: each of its weights is constant.

    Args:
        candidates: Laws of form ``gram`` that hold for co-active units; others are
            left out.
        slopes: Name of a candidate, or of the layer in it (``0`` of ``pair 0``), to
            the (N, n) slopes of its units, as in `coactivation_classes`.
        smallest: Classes of fewer units are left out; at least 1.

    Returns:
        One law of kind ``pair`` for each class of a candidate with slopes, named
        ``<candidate> class <lowest unit>``.

    Raises:
        ArgumentTypeError: ``slopes`` are no mapping.
        DomainError: Slopes are given twice for one candidate.
        UnknownNameError: Slopes are given for something that is no candidate.
        ShapeError: The slopes are not those of as many units as the candidate has.
    """  # noqa: DOC502 - raised by the function called
    grams = {law.name: law for law in candidates if law.form == "gram"}
    found: list[Law] = []
    for name, given in _by_candidate(slopes, grams).items():
        law, array = grams[name], np.asarray(given)
        if array.ndim != 2 or array.shape[1] != law.shape[0]:
            raise ShapeError(
                f"slopes of {name!r} have shape (samples, {law.shape[0]}), got "
                f"{array.shape}; units lie along the last axis"
            )
        for units in coactivation_classes(array):
            if len(units) >= smallest:
                dead = not array[:, units[0]].any()
                found.append(_class_law(law, units, dead=dead))
    return Laws(tuple(found), candidates.skipped)


def _by_candidate(
    slopes: Mapping[str, Tensor | np.ndarray], grams: Mapping[str, Law]
) -> dict[str, Tensor | np.ndarray]:
    if not isinstance(slopes, Mapping):
        raise ArgumentTypeError(
            f"slopes are a mapping from candidates, got {type(slopes).__name__}; of "
            "activation patterns take {'fc': patterns.slopes('fc')}"
        )
    found: dict[str, Tensor | np.ndarray] = {}
    for given, array in slopes.items():
        name = given if given in grams else f"pair {given}"
        if name not in grams:
            raise UnknownNameError(
                f"slopes are given for laws of form gram, got {given!r}; the "
                f"candidates are {', '.join(grams) or 'none'}"
            )
        if name in found:
            raise DomainError(
                f"slopes are given once, got them twice for {name!r}; name the "
                "candidate or its layer"
            )
        found[name] = array
    return found


def _class_law(law: Law, units: np.ndarray, *, dead: bool) -> Law:
    condition = "the same slope on every sample"
    if dead:
        condition += "; dead on all: each weight in and out is constant"
    return replace(
        restrict(law, units),
        name=f"{law.name} class {units[0]}",
        kind="pair",
        condition=condition,
        source=_SOURCE,
    )


def as_slopes(pre: Tensor, negative_slope: float = 0.0) -> Tensor:
    """Slopes of ``relu`` or ``leaky_relu`` as autograd has them: 1 iff z > 0.

    Args:
        pre: Pre-activations, any shape.
        negative_slope: Slope for z <= 0.

    Returns:
        Tensor of the same shape.
    """
    dead = torch.full_like(pre, negative_slope)
    return torch.where(pre > 0, torch.ones_like(pre), dead)
