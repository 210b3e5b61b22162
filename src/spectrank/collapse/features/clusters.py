r"""TCV: variation within the best partition into K clusters.

    WCV(P)    (1/N) sum_c sum_{i in c} |z_i - zbar_c|^2, of a given partition P
    TCV_K(Z)  its minimum over partitions into K cells, the k-means value
    TCV_K(Z,Y)  the same of the stacked rows (z_i, tau * onehot(y_i))

With the eigenvalues mu_1 >= mu_2 >= ... of the centred covariance,

    sum_{i >= K} mu_i  <=  TCV_K(Z)  <=  WCV(any partition into K cells).

The minimum is NP-hard; k-means finds an upper end, and the sum of eigenvalues is a
certified lower one. Random starts can end above the class partition, so it is always
among the starts. Source (derived): tests/collapse/features/test_collapse_clusters.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spectrank.collapse.features.summarised import (
    EPS,
    class_summary,
    matrix,
    refusal,
    rounded,
)
from spectrank.errors import DomainError
from spectrank.extras import need
from spectrank.linalg import Value
from spectrank.linalg.moments import ClassSummary

# Smaller ones gain nothing by the Gram matrix.
_GRAM_SIDE = 64
_GRAM_RTOL = 1e-9


def tcv(
    features: Tensor,
    labels: Tensor | None = None,
    *,
    num_clusters: int | None = None,
    label_weight: float | None = None,
    num_starts: int = 10,
    seed: int,
) -> Value:
    """Total cluster variation TCV_K: variation within the best K clusters found.

    Squared units of the features, from 0 (at most K distinct rows) to the total
    variation; not N times it, and not relative to it. ``value`` and ``upper`` are the
    variation within the best partition found by k-means and, with labels and K at least
    the number of classes, the class partition; ``lower`` is the end of the PCA bracket.
    The truth lies between them: ``value`` is an upper end, not an estimate.
    Source (derived): tests/collapse/features/test_collapse_clusters.py.

    Args:
        features: (N, d) rows.
        labels: (N,) classes.
        num_clusters: K; by default the number of classes that have rows.
        label_weight: tau, to cluster the rows with their one-hot labels times tau;
            large enough, and with K classes, it gives the class partition.
        num_starts: Random starts (k-means++).
        seed: Of the random starts.

    Returns:
        Certified enclosure of TCV_K.
    """
    rows, labels, k = _request(features, labels, num_clusters, label_weight)
    if label_weight is not None and labels is not None:
        classes = torch.unique(labels, return_inverse=True)[1]
        marks = torch.nn.functional.one_hot(classes).to(rows)
        rows = torch.cat([rows, label_weight * marks], dim=1)
    whole = class_summary(rows, None)
    if refused := refusal(whole, num_classes=1):
        return refused
    if len(torch.unique(rows, dim=0)) <= k:
        return Value.exact(0.0)
    partitions = [_kmeans(rows, labels, k, num_starts, seed)]
    if labels is not None and len(torch.unique(labels)) <= k:
        partitions.append(labels)
    best = min(class_summary(rows, p).wcv.upper for p in partitions)
    lower = min(pca_bracket(rows, k).lower, best)
    return Value(best, lower, best, "certified")


def pca_bracket(features: Tensor, num_clusters: int) -> Value:
    r"""Lower end :math:`\sum_{i\ge K}\mu_i` of TCV_K, mu of the centred covariance.

    Squared units of the features, from 0 up; the total variation for K = 1, 0 beyond
    the rank of the covariance. Not an estimate of TCV_K.
    Source (derived): tests/collapse/features/test_collapse_clusters.py.

    Args:
        features: (N, d) rows.
        num_clusters: K, at least 1.

    Returns:
        Value with its rounding error.
    """
    rows = matrix("features", features).to(torch.float64)
    k = _positive(num_clusters)
    if refused := refusal(class_summary(rows, None), num_classes=1):
        return refused
    # Less a row first: exact where rows differ little from each other.
    rows = rows - rows[0]
    tail, error = _tail(rows - rows.mean(0), k - 1)
    return rounded(tail / len(rows), error / len(rows))


def pca_bracket_of(summary: ClassSummary, num_clusters: int) -> Value:
    """Lower end of TCV_K from class statistics; see `pca_bracket`.

    Eigenvalues below about 1e-16 of the first are not resolved by a covariance; the
    rounding error says so.

    Args:
        summary: Statistics with the full scatter.
        num_clusters: K, at least 1.

    Returns:
        Value with its rounding error.
    """
    k = _positive(num_clusters)
    if refused := refusal(summary, num_classes=1):
        return refused
    covariance = summary.total_covariance()
    mu = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0.0)
    d = len(mu)
    error = (d * EPS * float(mu[0]) + summary.scatter_error * float(mu.sum())) * d
    return rounded(float(mu[k - 1 :].sum()), error)


def _tail(rows: Tensor, num: int) -> tuple[float, float]:
    """Sum of squared singular values after the first ``num``, and its error."""
    if max(rows.shape) >= 2 * min(rows.shape) > _GRAM_SIDE:
        # Ten times faster than the singular values (0.35 s and 3.7 s for 10,000 rows
        # of 1024), but blind to a tail below rounding of the largest.
        tall = rows if rows.shape[0] >= rows.shape[1] else rows.mT
        mu = torch.linalg.eigvalsh(tall.mT @ tall).flip(0).clamp(min=0.0)
        tail = float(mu[num:].sum())
        error = len(mu) * EPS * (float(mu[0]) * len(mu) + float(mu.sum()))
        if error <= _GRAM_RTOL * tail:
            return tail, error
    s = torch.linalg.svdvals(rows)
    tail = float(s[num:].square().sum())
    # |s - s'| <= size * eps * s_1 for each, summed as squares.
    slip = max(rows.shape) * EPS * float(s[0]) * len(s) ** 0.5
    return tail, 2.0 * tail**0.5 * slip + slip**2


def _request(
    features: Tensor,
    labels: Tensor | None,
    num_clusters: int | None,
    label_weight: float | None,
) -> tuple[Tensor, Tensor | None, int]:
    """Return rows in float64, checked labels and K."""
    rows = matrix("features", features).to(torch.float64)
    if label_weight is not None and (labels is None or not label_weight >= 0.0):
        raise DomainError(
            "label_weight needs labels and must not be negative, got "
            f"{label_weight} with labels={'None' if labels is None else 'given'}; "
            "pass both, e.g. label_weight=1.0"
        )
    if labels is None:
        if num_clusters is None:
            raise DomainError(
                "num_clusters or labels must be given, got neither; "
                "e.g. num_clusters=10"
            )
        return rows, None, _positive(num_clusters)
    # Says what is wrong with the labels.
    present = class_summary(rows, labels).num_present
    labels = labels.detach().to(rows.device, torch.int64)
    k = max(present, 1) if num_clusters is None else _positive(num_clusters)
    return rows, labels, k


def _positive(num_clusters: int) -> int:
    if num_clusters < 1:
        raise DomainError(
            f"num_clusters must be at least 1, got {num_clusters}; "
            "1 gives the total variation"
        )
    return num_clusters


def _kmeans(
    rows: Tensor, labels: Tensor | None, k: int, num_starts: int, seed: int
) -> Tensor:
    """(N,) the better partition of random starts and, for K classes, of their means."""
    cluster: Any = need("sklearn.cluster", "k-means")
    # Less a row, and of unit size: neither offset nor scale costs a digit then.
    rows = rows - rows[0]
    points = (rows / rows.abs().max()).cpu().numpy()
    options: dict[str, Any] = {"n_clusters": k, "tol": 0.0, "random_state": seed}
    fits = [cluster.KMeans(n_init=num_starts, **options).fit(points)]
    if labels is not None and len(classes := torch.unique(labels)) == k:
        means = torch.stack([rows[labels == c].mean(0) for c in classes])
        start = (means / rows.abs().max()).cpu().numpy()
        fits.append(cluster.KMeans(init=start, n_init=1, **options).fit(points))
    best = min(fits, key=lambda fit: float(fit.inertia_))
    return torch.as_tensor(best.labels_, dtype=torch.int64, device=rows.device)
