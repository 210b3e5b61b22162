"""Table: an immutable long frame of measurements and its provenance."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.table._blocks import summary
from spectrank.table._convert import to_pandas
from spectrank.table._files import read_file, write_file
from spectrank.table._lookup import find_row, matching, without_number
from spectrank.table._provenance import check_provenance, merge
from spectrank.table._rows import build_frame
from spectrank.table._schema import CORE, Dtype, check_frame, check_producers
from spectrank.table._view import console_table, html_table
from spectrank.table._wide import wide_frame

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """One long frame of measurements, spectra, checks and skips, with provenance.

    A row is one number (``value``) or one list (``values``) of one subject under one
    view, with its enclosure, status and route. Nothing is dropped silently: what was
    not measured is a row of kind ``skip`` with its reason.

    Attributes:
        frame: The core columns in schema order, then the producer columns.
        provenance: Plain JSON; always has ``schema_version`` and ``columns`` (the
            producer columns with their dtypes).

    Example:
        >>> table = Table.from_rows(
        ...     [
        ...         {
        ...             "kind": "measurement",
        ...             "subject": "fc",
        ...             "metric": "stable_rank",
        ...             "value": 30.5,
        ...             "status": "ok",
        ...             "m": 64,
        ...         },
        ...     ],
        ...     columns={"m": pl.Int64},
        ... )
        >>> table.value("fc", "stable_rank")
        30.5
        >>> table.wide().row(0, named=True)
        {'subject': 'fc', 'view': None, 'm': 64, 'stable_rank': 30.5}
    """

    frame: pl.DataFrame
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        producers = check_frame(self.frame)
        object.__setattr__(self, "frame", self.frame.select(*CORE, *producers))
        object.__setattr__(
            self, "provenance", check_provenance(self.provenance, producers)
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        provenance: Mapping[str, Any] | None = None,
        columns: Mapping[str, Dtype] | None = None,
    ) -> "Table":
        """Make a Table from rows; a key that a row lacks becomes null.

        Args:
            rows: Mappings from column to value; ``kind``, ``subject`` and ``metric``
                are required. Values may be Python, numpy or torch scalars and lists.
            provenance: Where the rows come from, as plain JSON.
            columns: The producer columns and their dtypes: text, booleans, integers,
                floats and lists of these.

        Returns:
            The Table, rows in the order given.

        Raises:
            TableError: A key is not declared, a value does not fit its column, a
                required entry is null or a word is outside its vocabulary.
        """  # noqa: DOC502
        producers = check_producers(columns or {})
        return cls(build_frame(rows, {**CORE, **producers}), provenance or {})

    @classmethod
    def concat(cls, tables: Sequence["Table"]) -> "Table":
        """Stack tables; a producer column that one of them lacks is null there.

        Provenance keys that agree are kept; those that differ are listed under
        ``sources``, one entry per distinct origin. The grouping does not matter:
        concatenating a concatenation gives the same as concatenating all at once.

        Args:
            tables: At least one table.

        Returns:
            All rows, in order.

        Raises:
            ArgumentTypeError: It is no list of tables.
            TableError: There is no table, or a producer column differs in dtype.
        """
        listed = isinstance(tables, Sequence)
        if not listed or not all(isinstance(table, Table) for table in tables):
            raise ArgumentTypeError(
                f"concat takes a list of tables, got {tables!r:.80}; pass Tables alone"
            )
        if not tables:
            raise TableError(
                "concat needs at least one table, got none; "
                "Table.from_rows([]) is the empty table"
            )
        dtypes: dict[str, pl.DataType] = {}
        for table in tables:
            for name, dtype in table.frame.schema.items():
                if dtypes.setdefault(name, dtype) != dtype:
                    raise TableError(
                        "a producer column has one dtype in all tables, got "
                        f"{dtypes[name]} and {dtype} for {name!r}; "
                        "cast one of them or rename it"
                    )
        frame = pl.concat([table.frame for table in tables], how="diagonal")
        return cls(frame, merge([table.provenance for table in tables]))

    def __len__(self) -> int:
        return self.frame.height

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.frame.iter_rows(named=True)

    @property
    def columns(self) -> list[str]:
        """Names of the core columns, then of the producer columns."""
        return self.frame.columns

    def where(self, *predicates: pl.Expr, **equals: Any) -> "Table":
        """Rows that satisfy all predicates and equal all given values.

        Args:
            *predicates: Polars expressions.
            **equals: Column to value; None keeps the rows where it is null.

        Returns:
            A Table with the same columns and provenance.

        Raises:
            TableError: A column does not exist, or cannot be compared so.
        """  # noqa: DOC502
        return Table(matching(self.frame, predicates, equals), self.provenance)

    def spectrum(self, subject: str, view: str | None = None) -> list[float]:
        """Singular values of one matrix, as measured.

        Args:
            subject: Name of the matrix.
            view: Its view; needed where the subject has several.

        Returns:
            The ``values`` of the one row of kind ``spectrum``.

        Raises:
            TableError: There is no such row, several, or one without values.
        """
        row = find_row(self.frame, "spectrum", subject=subject, view=view)
        if row["values"] is None:
            raise TableError(without_number(row))
        return list(row["values"])

    def value(
        self,
        subject: str,
        metric: str,
        *,
        view: str | None = None,
        variant: str | None = None,
    ) -> float:
        """The one measured number of a matrix.

        Args:
            subject: Name of the matrix.
            metric: Name of the metric.
            view: Its view; needed where the subject has several.
            variant: Variant of the metric; without it the plain metric (no variant)
                is taken, or the only variant there is.

        Returns:
            The ``value`` of the one row of kind ``measurement``; NaN if that was
            measured.

        Raises:
            TableError: There is no such row, several, or one without a value.
        """
        row = find_row(
            self.frame,
            "measurement",
            subject=subject,
            metric=metric,
            view=view,
            variant=variant,
        )
        if row["value"] is None:
            raise TableError(without_number(row))
        return float(row["value"])

    def wide(self, metrics: Sequence[str] | None = None) -> pl.DataFrame:
        """Measurements with one row per matrix and one column per metric.

        Args:
            metrics: Names of metrics or of single columns; None for all.

        Returns:
            ``subject``, ``view``, the producer columns that are constant on each
            matrix, and a float column per metric: ``metric``, ``metric[variant]``
            where it occurs with several variants, ``metric[index]`` where one matrix
            has it at several indices. Subjects keep their order.

        Raises:
            TableError: A metric is absent, or a matrix has it more than once (at
                several steps or in several runs): choose with ``where`` first.
        """  # noqa: DOC502
        return wide_frame(self.frame, metrics)

    def write(self, path: str | Path) -> list[Path]:
        """Write to ``.parquet``, ``.json`` or ``.csv``, each losslessly.

        Each file appears whole or not at all. A CSV comes as three files: ``x.csv``
        without the lists, ``x.spectra.csv`` with one line per entry of a list, and
        ``x.meta.json`` with provenance, dtypes and checksums.

        Args:
            path: Target in an existing folder; its suffix is the format.

        Returns:
            The files written, the named one first.

        Raises:
            ArgumentTypeError: It is no path.
            TableError: The suffix is none of the three, or the file cannot be
                written.
        """  # noqa: DOC502
        return write_file(self.frame, self.provenance, path)

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """Read what ``write`` wrote.

        Args:
            path: A ``.parquet``, ``.json`` or ``.csv`` file, the latter with its two
                side files in the same folder.

        Returns:
            A Table equal to the one written, dtypes, nulls, NaN and infinities
            included.

        Raises:
            ArgumentTypeError: It is no path.
            TableError: The file is absent, damaged, not written by spectrank, or of
                another schema version.
        """  # noqa: DOC502
        frame, provenance = read_file(path)
        try:
            return cls(frame, provenance)
        except TableError as error:
            raise TableError(f"{path} holds no valid Table: {error}") from error

    def to_pandas(self) -> "pd.DataFrame":
        """The long form as a pandas DataFrame; needs pandas, not pyarrow.

        Text, integers and booleans get pandas' nullable dtypes. A null float becomes
        NaN, as pandas has it; ``status`` tells it from a NaN that was measured.

        Returns:
            The frame, with the provenance in ``.attrs["provenance"]``.

        Raises:
            TableError: pandas is not installed.
        """  # noqa: DOC502
        return to_pandas(self.frame, self.provenance)

    def __repr__(self) -> str:
        return f"Table({summary(self.frame)})"

    def __str__(self) -> str:
        """Return what a terminal shows, as text; ``print(table)`` is readable."""
        console = Console(file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        yield console_table(self, options.max_width)

    def _repr_html_(self) -> str:
        return html_table(self)
