"""Measurement rows as cells of a (matrix, metric) grid.

A matrix is a (subject, view) pair. A cell is one row of the long form. The column
of a metric is named by the metric alone, or ``metric[variant]`` where the metric
occurs with several variants; ``metric[index]`` where one matrix has it at several
indices.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.table._schema import CORE

Matrix = tuple[str, str | None]


def grid(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], dict[Matrix, dict[str, Mapping[str, Any]]]]:
    """Arrange measurement rows by matrix and metric.

    Args:
        rows: Rows of kind ``measurement``.

    Returns:
        The column labels in order of appearance, and the row behind each label for
        each matrix, matrices in order of appearance.

    Raises:
        TableError: One matrix has one metric more than once, at several steps say.
    """
    labels: dict[str, None] = {}
    cells: dict[Matrix, dict[str, Mapping[str, Any]]] = {}
    for row, label in zip(rows, _labels(rows), strict=True):
        matrix = (row["subject"], row["view"])
        labels.setdefault(label)
        if label in cells.setdefault(matrix, {}):
            raise TableError(
                "the wide form has one number per matrix and metric, "
                f"{row['subject']!r} has several for {label!r}; keep one first, "
                "as in table.where(step=0) or table.where(run='a')"
            )
        cells[matrix][label] = row
    return list(labels), cells


def wide_frame(frame: pl.DataFrame, metrics: Sequence[str] | None) -> pl.DataFrame:
    """One row per matrix, one float column per metric.

    Args:
        frame: The long frame.
        metrics: Names of metrics or of single columns (``metric[variant]``), in the
            order wanted; None for all.

    Returns:
        Subject, view, the producer columns that are constant on each matrix, then
        the metrics. A metric that a matrix lacks is null.

    Raises:
        TableError: A metric is absent, a matrix has a metric more than once, or a
            metric has the name of another column.
    """
    frame = frame.filter(pl.col("kind") == "measurement")
    labels, cells = grid(frame.rows(named=True))
    chosen = labels if metrics is None else _choose(labels, metrics)
    constant = _constant_columns(frame)
    names = ["subject", "view", *constant, *chosen]
    if clash := {name for name in names if names.count(name) > 1}:
        raise TableError(
            f"the columns of the wide form must differ, got {min(clash)!r} twice; "
            "rename the producer column or choose other metrics"
        )
    return pl.DataFrame(
        [
            pl.Series("subject", [subject for subject, _ in cells], dtype=pl.String),
            pl.Series("view", [view for _, view in cells], dtype=pl.String),
            *constant.values(),
            *(_metric_column(label, cells) for label in chosen),
        ]
    )


def _metric_column(
    label: str, cells: Mapping[Matrix, Mapping[str, Mapping[str, Any]]]
) -> pl.Series:
    values = [row[label]["value"] if label in row else None for row in cells.values()]
    return pl.Series(label, values, dtype=pl.Float64)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    variants: dict[str, set[str | None]] = {}
    indices: dict[tuple[Any, ...], set[int | None]] = {}
    for row in rows:
        variants.setdefault(row["metric"], set()).add(row["variant"])
        cell = (row["metric"], row["subject"], row["view"], row["variant"])
        indices.setdefault(cell, set()).add(row["index"])
    # Qualify by index only where a matrix needs it: a metric whose index merely
    # differs between layers (k = half the width) stays one column.
    indexed = {cell[0] for cell, found in indices.items() if len(found) > 1}
    labels = []
    for row in rows:
        metric, variant, index = row["metric"], row["variant"], row["index"]
        marks = []
        if len(variants[metric]) > 1 and variant is not None:
            marks.append(variant)
        if metric in indexed and index is not None:
            marks.append(str(index))
        labels.append(f"{metric}[{', '.join(marks)}]" if marks else metric)
    return labels


def _choose(labels: Sequence[str], metrics: Sequence[str]) -> list[str]:
    if isinstance(metrics, str):
        raise TableError(
            f"metrics must be a list of names, got the text {metrics!r}; "
            f"write metrics=[{metrics!r}]"
        )
    if not isinstance(metrics, Iterable):
        raise ArgumentTypeError(
            f"metrics are a list of names, got {metrics!r:.80} of type "
            f"{type(metrics).__name__}; leave them out for all"
        )
    chosen: dict[str, None] = {}
    for metric in metrics:
        found = [x for x in labels if x == metric or x.startswith(f"{metric}[")]
        if not found:
            raise TableError(
                f"metrics must be measured in this table, got {metric!r}; "
                f"it has {', '.join(labels) or 'no measurement'}"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def _constant_columns(frame: pl.DataFrame) -> dict[str, pl.Series]:
    producers = [name for name in frame.columns if name not in CORE]
    grouped = frame.group_by("subject", "view", maintain_order=True)
    # Rows of another producer, joined by a diagonal concat, are null here and do
    # not contradict the rows that know the value.
    counts = grouped.agg(pl.col(producers).drop_nulls().n_unique())
    firsts = grouped.agg(pl.col(producers).drop_nulls().first())
    return {name: firsts[name] for name in producers if (counts[name] <= 1).all()}
