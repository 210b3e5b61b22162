"""Provenance: where the rows come from, as plain JSON.

Two keys are ours: ``schema_version`` and ``columns`` (producer columns with their
dtypes). ``sources`` appears where tables of different origin were concatenated.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.errors import TableError
from spectrank.table._schema import SCHEMA_VERSION, dtype_name, shorten

_OURS = ("schema_version", "columns")


def check_provenance(
    provenance: Mapping[str, Any], producers: Mapping[str, pl.DataType]
) -> dict[str, Any]:
    """Copy a provenance as plain JSON, with schema version and producer columns.

    Args:
        provenance: What the caller knows of the origin of the rows.
        producers: The producer columns of the frame.

    Returns:
        A copy that survives a file unchanged (tuples are lists, keys are text).

    Raises:
        TableError: It is not JSON, or names a schema version that is not ours.
    """
    try:
        text = json.dumps(dict(provenance), allow_nan=False)
        text.encode()
        copy: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise TableError(
            "provenance must be a mapping of plain JSON values, finite numbers only, "
            f"got {shorten(provenance)} ({error}); turn the offending value into text"
        ) from error
    check_version(copy.get("schema_version", SCHEMA_VERSION), "the provenance")
    sources = copy.get("sources", [{}])
    if not isinstance(sources, list) or not all(isinstance(s, dict) for s in sources):
        raise TableError(
            "provenance 'sources' is the list of mappings that Table.concat writes, "
            f"got {shorten(sources)}; choose another key"
        )
    columns = {name: dtype_name(dtype) for name, dtype in producers.items()}
    return {**copy, "schema_version": SCHEMA_VERSION, "columns": columns}


def check_version(version: object, where: str) -> None:
    """Assert that a schema version is the one this release writes.

    Args:
        version: What was found.
        where: What carries it, for the message.

    Raises:
        TableError: It is newer, or no version at all.
    """
    if type(version) is int and version == SCHEMA_VERSION:
        return
    if type(version) is int and version > SCHEMA_VERSION:
        raise TableError(
            f"this spectrank reads schema version {SCHEMA_VERSION}, {where} has the "
            f"newer version {version}; upgrade spectrank to read it"
        )
    raise TableError(
        f"the schema version must be {SCHEMA_VERSION}, {where} has {version!r}; "
        "no release of spectrank wrote that, write the table again"
    )


def merge(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join provenances: what agrees stays a key, the rest goes under ``sources``.

    Args:
        provenances: Those of the tables that are concatenated, in order.

    Returns:
        A provenance without ``columns``, which the new frame determines. Grouping
        does not matter: sources of sources are taken apart first.
    """
    origins: list[dict[str, Any]] = []
    for provenance in provenances:
        shared = {key: v for key, v in provenance.items() if key not in _OURS}
        for source in shared.pop("sources", [{}]):
            origin = {**shared, **source}
            if origin not in origins:
                origins.append(origin)
    first = origins[0]
    agreed = {
        key: value
        for key, value in first.items()
        if all(key in origin and origin[key] == value for origin in origins)
    }
    differing = [
        {key: value for key, value in origin.items() if key not in agreed}
        for origin in origins
    ]
    return {**agreed, "sources": differing} if any(differing) else agreed
