"""Data sets kept in files: what is known of one, and how it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spectrank.experiments.data.dataset import DataError, Dataset
from spectrank.experiments.data.files import (
    ENVIRONMENT_VARIABLE,
    DataFile,
    cache_folder,
    fetch,
    locate,
    read_checked,
    search_path,
)


@dataclass(frozen=True)
class ImageFiles:
    """A data set kept in files.

    Attributes:
        title: Its name in prose.
        files: Split to its files.
        num_samples: Split to the number of samples.
        decode: Maps the contents of a split's files to inputs (N, ...) and labels.
        classes: Names of the classes.
        source: Origin.
        licence: Licence.
        address: Folder on the net that has the files; None where there is none.
        how: How to get the files by hand.
        note: What a reader of a result must know.
    """

    title: str
    files: dict[str, tuple[DataFile, ...]]
    num_samples: dict[str, int]
    decode: Callable[..., tuple[Tensor, Tensor]]
    classes: tuple[str, ...]
    source: str
    licence: str
    address: str | None
    how: str
    note: str = ""


def load_files(
    name: str,
    known: ImageFiles,
    split: str,
    *,
    root: str | Path | None,
    download: bool,
    mirror: str | None,
) -> Dataset:
    """Load one split of a data set kept in files.

    Args:
        name: Of the data set.
        known: What is known of it.
        split: ``train`` or ``test``.
        root: Folder to look in instead of ``SPECTRANK_DATA``.
        download: Fetch what is missing.
        mirror: Address of a folder to fetch from instead of the known one.

    Returns:
        The data set.

    Raises:
        DataError: A file is missing, damaged or cannot be fetched.
    """
    contents = []
    for file in known.files[split]:
        path = locate(file, root)
        if path is None:
            address = mirror or known.address
            if not download or address is None:
                raise DataError(_missing(known, file, root, download))
            path = fetch(file, f"{address.rstrip('/')}/{file.name}", cache_folder())
        contents.append(read_checked(file, path))
    inputs, labels = known.decode(*contents)
    if len(inputs) != known.num_samples[split]:
        raise DataError(
            f"{known.title} has {known.num_samples[split]} {split} samples, got "
            f"{len(inputs)}; the files are of another data set"
        )
    return Dataset(
        name=name,
        split=split,
        inputs=inputs,
        labels=labels,
        classes=known.classes,
        source=known.source,
        licence=known.licence,
        sha256={file.path: file.content_sha256 for file in known.files[split]},
        scale=1.0 / 255.0,
        note=known.note,
    )


def _missing(
    known: ImageFiles, file: DataFile, root: str | Path | None, download: bool
) -> str:
    folders = " or ".join(str(folder) for folder in search_path(root))
    ways = [f"put it into a folder and set {ENVIRONMENT_VARIABLE} to that folder"]
    if known.address is not None and not download:
        ways.append("or pass download=True")
    return (
        f"{known.title} is read from {file.path}, which is in none of {folders}; "
        f"{', '.join(ways)} ({known.how})"
    )
