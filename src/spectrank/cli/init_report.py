"""``spectrank init-report``: how far each layer of a checkpoint is from its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectrank.cli.options import Html, Out, Quiet, Select, Source, View
from spectrank.cli.outputs import (
    check_targets,
    counting,
    parse_views,
    plain,
    with_command,
    write_outputs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, RenderableType
    from rich.text import Text

    from spectrank.table import Table

# From this many columns on each check has a column, below it a line.
_WIDE = 100
_STYLES = {
    "holds": "green",
    "violated": "bold red",
    "inconclusive": "yellow",
    "not_applicable": "dim",
}
_STATES = {
    "initial": "at an initialisation",
    "orthogonal": "orthogonal",
    "flat": "flat",
    "spike": "spike",
    "unlisted scale": "of an unlisted scale",
    "changed": "trained or shaped",
    "unknown": "cannot tell",
}


def init_report_command(
    source: Source,
    select: Select = None,
    view: View = None,
    level: Annotated[
        float, typer.Option(help="Probability of a false alarm, a layer and a check.")
    ] = 1e-3,
    num_draws: Annotated[
        int | None,
        typer.Option(help="Random matrices a shape. Default: what the level needs."),
    ] = None,
    bulk: Annotated[
        bool,
        typer.Option(
            help="All singular values. Without, norms alone for large matrices, the "
            "fast way: the rest after the first value is judged by its participation "
            "ratio only."
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the random matrices.")] = 0,
    out: Out = None,
    html: Html = None,
    quiet: Quiet = False,
) -> None:
    """Say of every layer whether it is still at its initialisation, and what is not."""
    from rich.console import Console

    from spectrank.init.closeness import closeness

    views = parse_views(view)
    check_targets(out or [], html, source=source)
    errors = Console(stderr=True)
    with counting(errors, quiet=quiet) as show:
        table = closeness(
            source,
            select=select,
            views=views,
            level=level,
            num_draws=num_draws,
            bulk=bulk,
            seed=seed,
            progress=show,
        )
    table = with_command(table)
    if not quiet:
        _print_layers(table, Console())
    write_outputs(table, out or [], html, errors, quiet=quiet)


def _print_layers(table: Table, console: Console) -> None:
    """Print a line or a few for each layer, then what was skipped and a count."""
    from collections import Counter

    from rich.text import Text

    layers = list(_layers(table))
    wide = console.width >= _WIDE
    if wide and layers:
        console.print(_grid(layers), highlight=False)
    elif layers:
        for layer in layers:
            _print_block(layer, console)
    skips = Counter(row["reason"] for row in table.where(kind="skip"))
    for reason, count in skips.items():
        console.print(Text(f"{count} skipped: {plain(str(reason))}", style="dim"))
    counts = Counter(layer["state"] for layer in layers)
    parts = ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items())
    noun = "matrix" if len(layers) == 1 else "matrices"
    tail = f": {parts}" if parts else ""
    console.print(Text(f"{len(layers)} {noun}{tail}"))


def _layers(table: Table) -> Iterator[dict[str, Any]]:
    """What the terminal shows of each matrix."""
    numbers = {
        (row["subject"], row["view"], row["metric"], row["variant"]): row
        for row in table.where(kind="measurement")
    }
    checks = {
        (row["subject"], row["view"], row["metric"]): row
        for row in table.where(kind="check")
    }
    for (subject, view, metric), first in checks.items():
        if metric != "at_initialisation":
            continue
        key = (subject, view, "stable_rank")
        yield {
            "name": plain(subject),
            "shape": f"{first['m']}x{first['n']}",
            "stable_rank": _number(numbers.get((*key, None))),
            "fresh": _number(numbers.get((*key, "gaussian"))),
            "state": first["state"],
            "first": first,
            "second": checks[subject, view, "explained_by_stable_rank"],
        }


def _grid(layers: list[dict[str, Any]]) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    from spectrank.table import shortened

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    widest = max(len(layer["name"]) for layer in layers)
    grid.add_column("layer", width=min(widest, 32))
    for title in ("shape", "stable\nrank", "when\nfresh"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("initialisation", ratio=1)
    grid.add_column("beyond its stable rank", ratio=1)
    for layer in layers:
        grid.add_row(
            Text(shortened(layer["name"], min(widest, 32))),
            layer["shape"],
            layer["stable_rank"],
            layer["fresh"],
            _sentence(layer["first"]),
            _sentence(layer["second"]),
        )
    return grid


def _print_block(layer: dict[str, Any], console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from spectrank.table import shortened

    room = console.width - len(layer["shape"]) - 2
    name = shortened(layer["name"], max(room, 8))
    console.print(Text.assemble((name, "bold"), f"  {layer['shape']}"))
    ranks = f"stable rank {layer['stable_rank']}"
    if layer["fresh"]:
        ranks += f", fresh {layer['fresh']}"
    for line in (Text(ranks), _sentence(layer["first"]), _sentence(layer["second"])):
        console.print(Padding(line, (0, 0, 0, 2)), highlight=False)


def _sentence(row: dict[str, Any]) -> Text:
    from rich.text import Text

    return Text(plain(row["reason"]), style=_STYLES[row["verdict"]])


def _number(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['value']:.4g}" if row["status"] == "ok" else str(row["status"])
