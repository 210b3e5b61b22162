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

    from spectrank.table import shortened

    steps = table.provenance["trend"]
    rows = table.where(kind="measurement", metric=metric, variant=variant)
    courses, states = _courses(rows)
    name = f"{metric}[{variant}]" if variant else metric
    console.print(Text(f"{name}, steps {steps[0]} to {steps[-1]} ({len(steps)})"))
    ends = {key: _ends(course, steps) for key, course in courses.items()}
    numbers = [max([5, *(len(pair[i]) for pair in ends.values())]) for i in (0, 1)]
    width, num_bars = _widths(list(courses), console.width, sum(numbers), len(steps))
    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column("matrix", width=width)
    grid.add_column("first", justify="right", no_wrap=True, min_width=numbers[0])
    if num_bars:
        grid.add_column("course", no_wrap=True)
    grid.add_column("last", justify="right", no_wrap=True, min_width=numbers[1])
    for key, course in courses.items():
        bars = _bars(_thinned([course.get(step) for step in steps], num_bars))
        first, last = ends[key]
        cells = (first, bars, last) if num_bars else (first, last)
        grid.add_row(Text(shortened(key, width)), *cells)
    console.print(grid, highlight=False)
    for key, state in states.items():
        console.print(Text(f"{plain(key)}: {state}", style="yellow"))
    for row in table.where(kind="skip", metric="scan_steps"):
        told = plain(f"{row['subject']}: {row['reason']}")
        console.print(Text(told, style="yellow"))


def _widths(
    names: Sequence[str], width: int, numbers: int, num_steps: int
) -> tuple[int, int]:
    """Columns of the names and bars of a course; none where names need the room."""
    from spectrank.table import name_width

    longest = max(map(len, names), default=8)
    # Between four columns; a course has at least four bars and its heading.
    room = max(width - numbers - 6, 8)
    told = name_width(names, min(8, longest), longest)
    if told > room - 6:
        return min(longest, max(room + 2, 8)), 0
    name = min(longest, max(told, room * 2 // 3, room - num_steps))
    return name, max(min(num_steps, room - name), 4)


def _courses(
    rows: Table,
) -> tuple[dict[str, dict[int, float | None]], dict[str, str]]:
    """Step to value of each matrix, and why one has none at any step, by its name."""
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    states: dict[tuple[str, str], str] = {}
    for row in rows:
        key = (row["subject"], row["view"])
        found.setdefault(key, {})[row["step"]] = row["value"]
        if row["status"] not in {None, "ok"}:
            states.setdefault(key, f"{row['status']}, {row['reason']}")
    names = matrix_names(found)
    empty = {
        key for key, course in found.items() if not any(map(_is_known, course.values()))
    }
    return (
        {names[key]: course for key, course in found.items()},
        {names[key]: state for key, state in states.items() if key in empty},
    )


def _is_known(x: float | None) -> bool:
    return x is not None and x == x


def _ends(course: dict[int, float | None], steps: Sequence[int]) -> tuple[str, str]:
    """First and last number that there is; empty where there is none."""
    values = [course.get(step) for step in steps]
    known = [x for x in values if x is not None and _is_known(x)]
    return (f"{known[0]:.3g}", f"{known[-1]:.3g}") if known else ("", "")


def _thinned(values: Sequence[float | None], num: int) -> list[float | None]:
    if len(values) <= num or num < 2:
        return list(values)
    return [values[round(i * (len(values) - 1) / (num - 1))] for i in range(num)]


def _bars(values: Sequence[float | None]) -> str:
    """Bars from zero, so that a small change looks small; a dot where none is known."""
    known = [x for x in values if x is not None and _is_known(x)]
    top = max(known, default=0.0)
    if top <= 0.0:
        return "·" * len(values)
    last = len(_BARS) - 1
    return "".join(
        "·" if x is None or x != x else _BARS[min(max(round(x / top * last), 0), last)]
        for x in values
    )
