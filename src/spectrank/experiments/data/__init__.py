"""Data of the experiments: real images and synthetic mixtures, with checksums.

`load` gives a `Dataset` by name. Files are looked for under ``SPECTRANK_DATA``, then
in the user's cache; nothing is downloaded unless asked for.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from spectrank.errors import DomainError, UnknownNameError
from spectrank.experiments.data.catalogue import CIFAR10, FASHION_MNIST, MNIST
from spectrank.experiments.data.dataset import DataError as DataError
from spectrank.experiments.data.dataset import Dataset as Dataset
from spectrank.experiments.data.digits import load_digits
from spectrank.experiments.data.from_files import load_files
from spectrank.experiments.data.mixtures import gaussian_mixture as gaussian_mixture
from spectrank.experiments.data.transforms import Standardiser as Standardiser
from spectrank.experiments.data.transforms import fit_standardiser as fit_standardiser
from spectrank.experiments.data.transforms import unit_norm as unit_norm

_FILES = {"mnist": MNIST, "fashion-mnist": FASHION_MNIST, "cifar10": CIFAR10}

NAMES = ("digits", *_FILES, "gaussian-mixture", "gaussian-classes")
"""What `load` knows."""


def load(
    name: str,
    *,
    split: str = "train",
    root: str | Path | None = None,
    download: bool = False,
    mirror: str | None = None,
) -> Dataset:
    """Load one split of a data set by name.

    ``digits`` needs scikit-learn and no file; ``mnist``, ``fashion-mnist`` and
    ``cifar10`` are read from files; ``gaussian-mixture`` (30 clusters, 10 classes in
    R^32) and ``gaussian-classes`` (4 classes, a cluster each, in R^20) are synthetic,
    with other sizes and noise by `gaussian_mixture`.

    Args:
        name: One of ``NAMES``.
        split: ``train`` or ``test``.
        root: Folder to look in instead of ``SPECTRANK_DATA``.
        download: Fetch what is missing into the user's cache.
        mirror: Address of a folder to fetch from instead of the public one.

    Returns:
        The data set.

    Raises:
        UnknownNameError: No data set has that name.
        DomainError: There is no such split.
        DataError: A file is missing, damaged or cannot be fetched.

    Example:
        >>> data = load("gaussian-classes")
        >>> data
        Dataset(gaussian-classes train: 1024 x 20)
        >>> data.rows(8).shape
        torch.Size([8, 20])
    """  # noqa: DOC502
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(NAMES)}"
        raise UnknownNameError(f"no data set is named {name!r}; {hint}")
    if split not in {"train", "test"}:
        raise DomainError(f"a split is train or test, got {split!r}; name one of them")
    if name == "digits":
        return load_digits(split)
    if name == "gaussian-mixture":
        return gaussian_mixture(split=split)
    if name == "gaussian-classes":
        return gaussian_mixture(
            num_classes=4,
            clusters_per_class=1,
            dimension=20,
            centre_norm=2.0,
            noise=0.1,
            split=split,
            name=name,
        )
    return load_files(
        name, _FILES[name], split, root=root, download=download, mirror=mirror
    )
