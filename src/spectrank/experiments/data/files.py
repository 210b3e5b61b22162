"""Files of data sets: where they are looked for, fetched from and checked.

Search path: the folder given, else ``SPECTRANK_DATA``, then the user's cache
(``$XDG_CACHE_HOME/spectrank/data``, by default ``~/.cache/spectrank/data``), then a
download into that cache if the caller asks for one. Whatever the way, the bytes are
used only when their SHA-256 is the committed one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from spectrank.errors import DomainError
from spectrank.experiments.data.dataset import DataError
from spectrank.experiments.data.idx import unpacked
from spectrank.table import write_whole

ENVIRONMENT_VARIABLE = "SPECTRANK_DATA"

_TIMEOUT = 60.0
_PIECE = 1 << 20


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        path: Relative to a data folder, such as ``mnist/train-labels-idx1-ubyte.gz``.
        content_sha256: SHA-256 of the content after gzip, so that a file compressed
            anew, or not at all, is accepted exactly when it says the same.
        num_bytes: Of that content.
    """

    path: str
    content_sha256: str
    num_bytes: int

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]


def cache_folder() -> Path:
    """Return the user's cache for data sets; it need not exist.

    Returns:
        ``$XDG_CACHE_HOME/spectrank/data``, or that below ``~/.cache``.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "spectrank" / "data"


def search_path(root: str | Path | None = None) -> list[Path]:
    """Return the folders where data files are looked for, in order.

    Args:
        root: A folder to look in instead of ``SPECTRANK_DATA``.

    Returns:
        One or two folders.
    """
    first = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE)
    return [*([Path(first)] if first else []), cache_folder()]


def locate(file: DataFile, root: str | Path | None = None) -> Path | None:
    """Find a file on the search path, as named or without its ``.gz``.

    Args:
        file: What is looked for.
        root: A folder to look in instead of ``SPECTRANK_DATA``.

    Returns:
        The first that exists, or None.
    """
    names = (file.path, file.path.removesuffix(".gz"))
    candidates = (folder / name for folder in search_path(root) for name in names)
    return next((path for path in candidates if path.is_file()), None)


def read_checked(file: DataFile, path: Path) -> bytes:
    """Read a file and return its content once its checksum is right.

    Args:
        file: What it must be.
        path: Where it is.

    Returns:
        The content, decompressed.

    Raises:
        DataError: It cannot be read or its SHA-256 is another.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(2 * file.num_bytes + _PIECE)
    except OSError as error:
        raise DataError(
            f"a data file must be readable, got {path} ({error.strerror or error}); "
            "check its permissions"
        ) from error
    return _checked(file, raw, str(path))


def fetch(file: DataFile, url: str, folder: Path) -> Path:
    """Download a file into a data folder; it appears there only when it is right.

    Args:
        file: What it must be.
        url: Its address: http, https or file.
        folder: The data folder, made if it does not exist.

    Returns:
        Where it is now.

    Raises:
        DomainError: The address has another scheme.
        DataError: It cannot be fetched or written, or its SHA-256 is another.
    """
    if urlsplit(url).scheme not in {"http", "https", "file"}:
        raise DomainError(
            f"data is fetched by http, https or file, got {url!r}; give such an address"
        )
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            raw = response.read(2 * file.num_bytes + _PIECE)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(
            f"{file.path} must be reachable at {url}, it is not ({reason}); fetch it "
            f"by hand and put it under {folder}"
        ) from error
    _checked(file, raw, url)
    target = folder / file.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole({target: raw})
    except OSError as error:
        raise DataError(
            f"a download is kept in a writable folder, got {folder} "
            f"({error.strerror or error}); set XDG_CACHE_HOME to another"
        ) from error
    return target


def _checked(file: DataFile, raw: bytes, where: str) -> bytes:
    content = unpacked(raw, where, limit=file.num_bytes)
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.content_sha256:
        raise DataError(
            f"the content of {file.path} has the SHA-256 {file.content_sha256}, that "
            f"of {where} has {digest}; it is damaged or another file: fetch it again"
        )
    return content
