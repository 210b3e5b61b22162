"""Parquet, JSON and CSV files of a Table: lossless, atomic, checked when read.

A file is written beside its target and moved over it, so that a reader never sees
half of one. Bytes are verified before polars parses them: a few flipped bits in a
Parquet file can abort the whole process inside the parser, past any `except`.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from spectrank.errors import TableError
from spectrank.table._csv import csv_bytes, read_csv
from spectrank.table._json import Content, json_bytes, read_json
from spectrank.table._path import as_path
from spectrank.table._provenance import check_version
from spectrank.table._schema import SCHEMA_VERSION
from spectrank.table._whole import write_whole

_PARQUET_KEY = "spectrank.table"
# Parquet finds everything by absolute offsets and the footer from the end, so bytes
# between the last page and the footer are read by nobody else: room for a checksum.
_SEAL = b"spectrank-sha256"
_SEAL_SIZE = len(_SEAL) + hashlib.sha256().digest_size


def write_file(
    frame: pl.DataFrame, provenance: Mapping[str, Any], path: str | Path
) -> list[Path]:
    """Write a frame and its provenance in the format that the suffix names.

    Args:
        frame: The frame of a Table.
        provenance: Its provenance.
        path: Target in an existing folder.

    Returns:
        The files written, ``path`` first.

    Raises:
        ArgumentTypeError: It is no path.
        TableError: The suffix is unknown or a file cannot be written.
    """  # noqa: DOC502
    path = _as_path(path)
    files = _contents(frame, provenance, path)
    try:
        write_whole(files)
    except OSError as error:
        raise TableError(
            f"a table is written into an existing, writable folder, got {path} "
            f"({error.strerror or error}); create the folder or choose another path"
        ) from error
    return list(files)


def check_target(path: str | Path) -> None:
    """Refuse a target that ``Table.write`` would refuse, before the work is done.

    Args:
        path: Where a table is to be written.

    Raises:
        ArgumentTypeError: It is no path.
        TableError: The suffix is unknown or the folder does not exist.
    """  # noqa: DOC502
    path = _as_path(path)
    _format(path)
    if not path.parent.is_dir():
        raise TableError(
            f"a table is written into an existing, writable folder, got {path} "
            "(no such folder); create the folder or choose another path"
        )


def read_file(path: str | Path) -> Content:
    """Read the frame and provenance of a file that ``write_file`` wrote.

    Args:
        path: The file; its suffix is the format.

    Returns:
        Frame and provenance, whose agreement with the schema is not yet checked.

    Raises:
        ArgumentTypeError: It is no path.
        TableError: The file is absent, damaged, foreign or of another version.
    """  # noqa: DOC502
    path = _as_path(path)
    read = {".parquet": _read_parquet, ".json": read_json, ".csv": read_csv}
    try:
        return read[_format(path)](path)
    except OSError as error:
        raise TableError(
            f"a table is read from a file, got {path} ({error.strerror or error}); "
            "check the path"
        ) from error


def _as_path(path: str | Path) -> Path:
    return as_path(path, name="the file of a table", example="scan.parquet")


def _contents(
    frame: pl.DataFrame, provenance: Mapping[str, Any], path: Path
) -> dict[Path, bytes]:
    match _format(path):
        case ".parquet":
            return {path: _parquet_bytes(frame, provenance)}
        case ".json":
            return {path: json_bytes(frame, provenance)}
        case _:
            return csv_bytes(frame, provenance, path)


def _format(path: Path) -> str:
    if path.suffix.lower() not in {".parquet", ".json", ".csv"}:
        raise TableError(
            "a table is a .parquet, .json or .csv file, "
            f"got {path.name!r}; give it one of these suffixes"
        )
    return path.suffix.lower()


def _parquet_bytes(frame: pl.DataFrame, provenance: Mapping[str, Any]) -> bytes:
    note = {"schema_version": SCHEMA_VERSION, "provenance": provenance}
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata={_PARQUET_KEY: json.dumps(note)})
    raw = buffer.getvalue()
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    seal = _SEAL + hashlib.sha256(raw).digest()
    return raw[:footer] + seal + raw[footer:]


def _read_parquet(path: Path) -> Content:
    raw = path.read_bytes()
    footer = _footer_start(raw)
    if footer is None or footer < 4 + _SEAL_SIZE:
        raise TableError(
            f"a Parquet file has its magic bytes and footer, {path} of {len(raw)} "
            "bytes has not; it is truncated, damaged or of another format: "
            "write or copy it again"
        )
    seal = raw[footer - _SEAL_SIZE : footer]
    if not seal.startswith(_SEAL):
        raise TableError(
            "Table.read takes a Parquet file as Table.write left it, "
            f"{path} was written or rewritten by another program; "
            "read it with polars.read_parquet"
        )
    raw = raw[: footer - _SEAL_SIZE] + raw[footer:]
    if _SEAL + hashlib.sha256(raw).digest() != seal:
        raise TableError(
            f"the checksum of a Parquet table must match its bytes, that of {path} "
            "does not; the file was damaged: write or copy it again"
        )
    try:
        note = json.loads(pl.read_parquet_metadata(io.BytesIO(raw))[_PARQUET_KEY])
        check_version(note["schema_version"], str(path))
        return pl.read_parquet(io.BytesIO(raw)), note["provenance"]
    except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(
            f"a Parquet table has rows and a {_PARQUET_KEY!r} note, {path} has no "
            f"readable ones ({error}); write it again"
        ) from error


def _footer_start(raw: bytes) -> int | None:
    # The file ends with the footer, its length in 4 bytes and 4 magic bytes.
    if len(raw) < 12 or raw[:4] != b"PAR1" or raw[-4:] != b"PAR1":
        return None
    return len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
