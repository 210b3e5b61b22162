"""``spectrank trend``: the checkpoints of a run, matrix by matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from spectrank.cli.options import Html, Out, Quiet, Select, View
from spectrank.cli.outputs import (
    check_targets,
    counting,
    matrix_names,
    parse_views,
    plain,
    shorten,
    with_command,
    write_outputs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from spectrank.table import Table

_BARS = "▁▂▃▄▅▆▇█"


def trend_command(
    folder: Annotated[
        str,
        typer.Argument(help="A folder with a file or a folder for each checkpoint."),
    ],
    metrics: Annotated[
        str,
        typer.Option(help="Comma-separated names, as for scan; the first is shown."),
    ] = "stable_rank",
    steps: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose first group is the step in a name. Default: "
            "the number behind step, iter, checkpoint or epoch, else the last one."
        ),
    ] = None,
    select: Select = None,
    view: View = None,
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    out: Out = None,
    html: Html = None,
    quiet: Quiet = False,
) -> None:
    """Measure every checkpoint of a run and show how each matrix changed."""
    from rich.console import Console

    from spectrank.scanning import parse_metrics
    from spectrank.scanning.trend import scan_steps

    requests = parse_metrics(metrics)
    check_targets(out or [], html, source=folder)
    errors = Console(stderr=True)
    with counting(errors, quiet=quiet) as show:
        table = scan_steps(
            folder,
            steps=steps,
            metrics=metrics,
            select=select,
            views=parse_views(view),
            seed=seed,
            progress=show,
        )
    table = with_command(table)
    if not quiet:
        print_trend(table, requests[0].metric.name, requests[0].variant, Console())
    write_outputs(table, out or [], html, errors, quiet=quiet)


def print_trend(
    table: Table, metric: str, variant: str | None, console: Console
) -> None:
    """Print first value, course and last value of a metric for each matrix.

    Args:
        table: Of `scan_steps`.
        metric: What to show.
        variant: Of the metric.
        console: Where to.
    """
    from rich.table import Table as Grid
    from rich.text import Text

    steps = table.provenance["trend"]
    courses = _courses(table.where(kind="measurement", metric=metric, variant=variant))
    name = f"{metric}[{variant}]" if variant else metric
    console.print(Text(f"{name}, steps {steps[0]} to {steps[-1]} ({len(steps)})"))
    ends = {key: _ends(course, steps) for key, course in courses.items()}
    # Two columns of numbers with their headers, and the gaps between four columns.
    numbers = sum(max([5, *(len(pair[i]) for pair in ends.values())]) for i in (0, 1))
    room = max(console.width - numbers - 6, 16)
    longest = max(map(len, courses), default=8)
    width = min(longest, max(room * 2 // 3, room - len(steps), 8))
    num_bars = max(min(len(steps), room - width), 4)
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column("matrix", width=width)
    grid.add_column("first", justify="right", no_wrap=True)
    grid.add_column("course", no_wrap=True)
    grid.add_column("last", justify="right", no_wrap=True)
    for key, course in courses.items():
        bars = _bars(_thinned([course.get(step) for step in steps], num_bars))
        first, last = ends[key]
        grid.add_row(Text(shorten(key, width)), first, bars, last)
    console.print(grid, highlight=False)
    for row in table.where(kind="skip", metric="scan_steps"):
        told = plain(f"{row['subject']}: {row['reason']}")
        console.print(Text(told, style="yellow"))


def _courses(rows: Table) -> dict[str, dict[int, float | None]]:
    """Step to value of each matrix, by its name."""
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    for row in rows:
        key = (row["subject"], row["view"])
        found.setdefault(key, {})[row["step"]] = row["value"]
    names = matrix_names(found)
    return {names[key]: course for key, course in found.items()}


def _ends(course: dict[int, float | None], steps: Sequence[int]) -> tuple[str, str]:
    """First and last number that there is; empty where there is none."""
    values = [course.get(step) for step in steps]
    known = [x for x in values if x is not None and x == x]
    return (f"{known[0]:.3g}", f"{known[-1]:.3g}") if known else ("", "")


def _thinned(values: Sequence[float | None], num: int) -> list[float | None]:
    if len(values) <= num:
        return list(values)
    return [values[round(i * (len(values) - 1) / (num - 1))] for i in range(num)]


def _bars(values: Sequence[float | None]) -> str:
    """Bars from zero, so that a small change looks small."""
    known = [x for x in values if x is not None and x == x]
    top = max(known, default=0.0)
    if top <= 0.0:
        return " " * len(values)
    last = len(_BARS) - 1
    return "".join(
        " " if x is None or x != x else _BARS[min(max(round(x / top * last), 0), last)]
        for x in values
    )
