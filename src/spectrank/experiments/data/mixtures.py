"""Gaussian mixtures: seeded synthetic data of known geometry."""

from __future__ import annotations

import math

import torch

from spectrank.errors import DomainError
from spectrank.experiments.data.dataset import Dataset, tensor_digest
from spectrank.experiments.seeds import derive_generator

_SPLITS = ("train", "test")


def gaussian_mixture(
    num_samples: int = 1024,
    *,
    num_classes: int = 10,
    clusters_per_class: int = 3,
    dimension: int = 32,
    centre_norm: float = math.sqrt(32.0),
    noise: float = 0.5,
    split: str = "train",
    seed: int = 0,
    name: str = "gaussian-mixture",
) -> Dataset:
    r"""Sample :math:`x = \mu_k + \text{noise}\, g`, label ``k mod num_classes``.

    Centres are uniform on the sphere of radius ``centre_norm``, g is standard normal,
    and samples take the clusters in turn, so that class sizes differ by at most
    ``clusters_per_class``. The defaults are 30 clusters in R^32 for 10 classes.
    Source (derived): tests/experiments/test_experiments_mixtures.py.

    Args:
        num_samples: At least one for each cluster.
        num_classes: At least 2.
        clusters_per_class: At least 1.
        dimension: Of the inputs, at least 1.
        centre_norm: Length of every centre, at least 0.
        noise: Standard deviation around a centre in each direction, at least 0.
        split: Both splits share the centres and differ in the samples.
        seed: Of centres and samples.
        name: Of the data set.

    Returns:
        Inputs (N, dimension) float32.

    Raises:
        DomainError: A number is outside its range.
    """
    num_clusters = num_classes * clusters_per_class
    _check_counts(num_samples, num_classes, clusters_per_class, dimension)
    if split not in _SPLITS:
        raise DomainError(f"a split is train or test, got {split!r}; name one of them")
    for label, scale in (("centre_norm", centre_norm), ("noise", noise)):
        if not (math.isfinite(scale) and scale >= 0):
            raise DomainError(
                f"{label} is a finite length of at least 0, got {scale}; choose one"
            )
    centres = torch.randn(
        num_clusters,
        dimension,
        dtype=torch.float64,
        generator=derive_generator(seed, "centres", num_clusters, dimension),
    )
    centres *= centre_norm / torch.linalg.vector_norm(centres, dim=1, keepdim=True)
    cluster = torch.arange(num_samples) % num_clusters
    samples = torch.randn(
        num_samples,
        dimension,
        dtype=torch.float64,
        generator=derive_generator(seed, "samples", split),
    )
    inputs = (centres[cluster] + noise * samples).to(torch.float32)
    labels = cluster % num_classes
    return Dataset(
        name=name,
        split=split,
        inputs=inputs,
        labels=labels,
        classes=tuple(f"class {k}" for k in range(num_classes)),
        source=f"synthetic: {num_clusters} Gaussian clusters in R^{dimension}, centre "
        f"norm {centre_norm:g}, noise {noise:g}, seed {seed}",
        licence="none needed: generated",
        sha256={"inputs and labels": tensor_digest(inputs, labels)},
    )


def _check_counts(
    num_samples: int, num_classes: int, clusters_per_class: int, dimension: int
) -> None:
    least = {
        "num_classes": (num_classes, 2),
        "clusters_per_class": (clusters_per_class, 1),
        "dimension": (dimension, 1),
        "num_samples": (num_samples, num_classes * clusters_per_class),
    }
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise DomainError(
                f"{name} must be at least {minimum}, got {value}; choose a larger one"
            )
