"""What a Table may hold: columns, dtypes and vocabularies.

The core columns come first and always in the order of ``CORE``; producer columns
follow. A dtype is written to files by its name in ``DTYPES``.
"""

from collections.abc import Mapping

import polars as pl

from spectrank.errors import TableError

SCHEMA_VERSION = 1
"""Version of the core columns and vocabularies; a file carries the one it has."""

Dtype = pl.DataType | type[pl.DataType]

CORE: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "subject": pl.String(),
    "view": pl.String(),
    "metric": pl.String(),
    "variant": pl.String(),
    "index": pl.Int64(),
    "step": pl.Int64(),
    "run": pl.String(),
    "value": pl.Float64(),
    "values": pl.List(pl.Float64()),
    "lower": pl.Float64(),
    "upper": pl.Float64(),
    "error_kind": pl.String(),
    "failure_probability": pl.Float64(),
    "bound": pl.Float64(),
    "slack": pl.Float64(),
    "verdict": pl.String(),
    "status": pl.String(),
    "reason": pl.String(),
    "route": pl.String(),
    "source": pl.String(),
}

REQUIRED = ("kind", "subject", "metric")

VOCABULARY: dict[str, tuple[str, ...]] = {
    "kind": ("measurement", "spectrum", "check", "law", "claim", "skip"),
    "status": ("ok", "degenerate", "nonfinite", "not_converged", "skipped"),
    "verdict": (
        *("holds", "violated", "vacuous"),
        *("conserved", "explained", "broken"),
        *("reproduced", "contradicted", "inconclusive"),
        "not_applicable",
    ),
    "error_kind": ("rounding", "certified", "probabilistic", "stderr"),
}

_SCALARS: dict[str, pl.DataType] = {
    "String": pl.String(),
    "Boolean": pl.Boolean(),
    "Int8": pl.Int8(),
    "Int16": pl.Int16(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
    "UInt8": pl.UInt8(),
    "UInt16": pl.UInt16(),
    "UInt32": pl.UInt32(),
    "UInt64": pl.UInt64(),
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
}

DTYPES: dict[str, pl.DataType] = _SCALARS | {
    f"List({name})": pl.List(dtype) for name, dtype in _SCALARS.items()
}


def dtype_name(dtype: Dtype) -> str:
    """Name of a dtype in ``DTYPES``.

    Args:
        dtype: A polars dtype, as an instance or a class.

    Returns:
        The name under which files and provenance record it.

    Raises:
        TableError: The dtype is not one that all file formats keep.
    """
    for name, known in DTYPES.items():
        # `==` alone would accept the bare class pl.List for any list.
        if known == dtype and dtype is not pl.List:
            return name
    raise TableError(
        "a column of a Table is text, a boolean, an integer, a float or a list of "
        f"these, got the dtype {dtype}; cast it first, a date or time to text"
    )


def check_producers(columns: Mapping[str, Dtype]) -> dict[str, pl.DataType]:
    """Validate the producer columns that a caller declares.

    Args:
        columns: Name to dtype.

    Returns:
        The same mapping with dtype instances.

    Raises:
        TableError: A name is a core column or no identifier, or a dtype is unknown.
    """
    for name in columns:
        if not isinstance(name, str) or not name.isidentifier():
            raise TableError(
                "a producer column must be named by an identifier, so that "
                f"`where(name=...)` can reach it, got {name!r}; rename it"
            )
        if name in CORE:
            raise TableError(
                f"a producer column must not repeat a core column, got {name!r}; "
                "leave it out of `columns`, every Table has it"
            )
    return {name: DTYPES[dtype_name(dtype)] for name, dtype in columns.items()}


def check_frame(frame: pl.DataFrame) -> dict[str, pl.DataType]:
    """Assert that a frame is one of a Table.

    Args:
        frame: Any frame.

    Returns:
        The producer columns with their dtypes.

    Raises:
        TableError: A core column is missing or of another dtype, a required entry
            is null, or a word is not of its vocabulary.
    """
    for name, dtype in CORE.items():
        if name not in frame.columns or frame.schema[name] != dtype:
            got = frame.schema[name] if name in frame.columns else "no such column"
            raise TableError(
                f"a Table has the core column {name!r} of dtype {dtype}, got {got}; "
                "build it with Table.from_rows, which adds what is absent"
            )
    for name in REQUIRED:
        if frame[name].null_count():
            raise TableError(
                f"every row has a {name}, row {frame[name].is_null().arg_max()} "
                f"has none; set {name!r} in that row"
            )
    _check_words(frame)
    lists = frame["values"]
    if bool((lists.list.drop_nulls().list.len() != lists.list.len()).any()):
        raise TableError(
            "the entries of 'values' are numbers, got a null among them; "
            "use NaN, or null for the whole list"
        )
    return check_producers({n: d for n, d in frame.schema.items() if n not in CORE})


def _check_words(frame: pl.DataFrame) -> None:
    for name, words in VOCABULARY.items():
        if unknown := set(frame[name].unique()) - {*words, None}:
            word = min(unknown)
            raise TableError(
                f"{name} is one of {', '.join(words)}, row "
                f"{frame[name].to_list().index(word)} has {word!r}; "
                "use one of these words and put the detail into 'reason'"
            )


def shorten(value: object) -> str:
    """Representation of a value for a message, at most 60 characters.

    Args:
        value: Anything.

    Returns:
        ``repr(value)``, cut at the end where it is longer.
    """
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
