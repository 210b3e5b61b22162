"""``spectrank compare``: what changed from one checkpoint to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectrank.cli.options import Html, Out, Quiet, Select, View
from spectrank.cli.outputs import (
    check_targets,
    counting,
    exit_if_failed,
    matrix_names,
    parse_views,
    plain,
    with_command,
    write_outputs,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from spectrank.scanning.requests import MetricRequest
    from spectrank.table import Table

_HELP = "A weights file or a folder of them."
# From this many columns on each matrix has one line.
_WIDE = 90
_LEAST_NAME = 16


def compare_command(
    before: Annotated[str, typer.Argument(help=_HELP)],
    after: Annotated[str, typer.Argument(help=_HELP)],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, as for scan; the first is shown. Default: "
            "stable and effective rank, spectral and Frobenius norm."
        ),
    ] = None,
    select: Select = None,
    view: View = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(
            help="AFTER=BEFORE: a name, or its beginning, in the second checkpoint and "
            "in the first. Repeatable."
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="Leading singular directions whose turn is measured.")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    out: Out = None,
    html: Html = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if true of any matrix: 'relative_change>0.1', "
            "'stable_rank.change<-2', '*.mlp.*:subspace_overlap[left]<0.5'. "
            "Repeatable."
        ),
    ] = None,
    spectra: Annotated[
        bool, typer.Option(help="Keep the full spectra in the table.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Compare the matrices of two checkpoints."""
    from rich.console import Console

    from spectrank.scanning import Gate, with_gates
    from spectrank.scanning.compare import DEFAULT_METRICS, compare

    gates = [Gate.parse(text) for text in fail_if or []]
    asked = metrics or ",".join(DEFAULT_METRICS)
    for source in (before, after):
        check_targets(out or [], html, source=source)
    errors = Console(stderr=True)
    with counting(errors, quiet=quiet) as show:
        table = compare(
            before,
            after,
            metrics=with_gates(asked, gates, comparison=True),
            select=select,
            views=parse_views(view),
            rename=dict(_renaming(text) for text in rename or []),
            top=top,
            seed=seed,
            spectra=spectra,
            progress=show,
        )
    table = with_command(table)
    if not quiet:
        print_comparison(table, Console())
    write_outputs(table, out or [], html, errors, quiet=quiet)
    exit_if_failed(gates, table)


def _renaming(text: str) -> tuple[str, str]:
    from spectrank.errors import DomainError

    old, separator, new = text.partition("=")
    if not separator or not old:
        raise DomainError(
            f"a renaming reads AFTER=BEFORE, got {text!r}; e.g. 'encoder.=model.'"
        )
    return old, new


def print_comparison(table: Table, console: Console) -> None:
    """Print the matrices from the one that moved most, then what has no partner.

    Args:
        table: Of `compare`.
        console: Where to.
    """
    from rich.text import Text

    from spectrank.scanning import parse_metrics

    # Of the metrics the first is shown, as it was asked for.
    (shown, *_) = parse_metrics(table.provenance["settings"]["metrics"])
    layers = sorted(_layers(table, shown), key=lambda layer: layer["place"])
    moved = [layer for layer in layers if not layer["same"]]
    if moved:
        columns = _columns(moved, _label(shown))
        room = console.width - sum(_width(column) + 2 for column in columns.items())
        fits = console.width >= _WIDE and room >= _LEAST_NAME
        console.print(
            _grid(moved, columns, room)
            if fits
            else _lines(moved, _label(shown), console.width),
            highlight=False,
        )
    for row in table.where(kind="skip"):
        told = plain(f"{row['subject']}: {row['reason']}")
        console.print(Text(told, style="dim"))
    broken = len(table.where(kind="check", verdict="violated"))
    parts = [
        f"{len(layers)} compared",
        f"{len(layers) - len(moved)} identical",
        f"{len(table.where(kind='skip'))} without a partner",
    ]
    console.print(Text(", ".join(parts)))
    if broken:
        console.print(Text(f"{broken} bounds violated: see the table", "bold red"))


def _layers(table: Table, shown: MetricRequest) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in table.where(kind="measurement"):
        layer = found.setdefault((row["subject"], row["view"]), {"overlap": {}})
        metric, run = row["metric"], row["run"]
        if metric == "relative_change":
            layer |= {
                "place": row["place"] or len(table),
                "change": _number(row),
                "same": row["value"] == 0.0,
                "shape": f"{row['m']}x{row['n']}",
            }
        elif metric == "subspace_overlap" and run == "difference":
            layer["overlap"][row["variant"].partition(",")[0]] = _number(row)
        elif metric == shown.metric.name and row["variant"] == shown.variant:
            layer[run] = _number(row)
    for key, name in matrix_names(found).items():
        found[key]["name"] = name
    return list(found.values())


def _label(shown: MetricRequest) -> str:
    name = shown.metric.name.replace("_", " ")
    return f"{name}[{shown.variant}]" if shown.variant else name


def _number(row: dict[str, Any]) -> str:
    if row["value"] is None or row["value"] != row["value"]:
        return str(row["status"])
    text = f"{row['value']:.3g}"
    return text if row["status"] == "ok" else f"{text}?"


def _overlap(layer: dict[str, Any]) -> str:
    return " ".join(layer["overlap"].get(side, "") for side in ("left", "right"))


def _ranks(layer: dict[str, Any]) -> str:
    if "before" not in layer:
        return ""
    return f"{layer['before']} → {layer['after']}"


def _columns(layers: list[dict[str, Any]], label: str) -> dict[str, list[str]]:
    """Title to cells of the columns beside the name."""
    return {
        "shape": [layer["shape"] for layer in layers],
        "relative\nchange": [layer["change"] for layer in layers],
        f"{label}\nbefore → after": [_ranks(layer) for layer in layers],
        "of the\ndifference": [layer.get("difference", "") for layer in layers],
        "overlap\nleft right": [_overlap(layer) for layer in layers],
    }


def _width(column: tuple[str, list[str]]) -> int:
    title, cells = column
    return max(map(len, [*title.split("\n"), *cells]))


def _grid(
    layers: list[dict[str, Any]], columns: dict[str, list[str]], room: int
) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    from spectrank.table import shortened

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    width = min(max([_LEAST_NAME, *(len(layer["name"]) for layer in layers)]), room - 2)
    grid.add_column("matrix", width=width)
    for title in columns:
        grid.add_column(Text(title), justify="right", no_wrap=True)
    for layer, *cells in zip(layers, *columns.values(), strict=True):
        grid.add_row(Text(shortened(layer["name"], width)), *cells)
    return grid


def _lines(layers: list[dict[str, Any]], label: str, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from spectrank.table import shortened

    lines = []
    for layer in layers:
        lines.append(Text(shortened(layer["name"], max(width, 16)), style="bold"))
        lines.append(Text(f"  {layer['shape']}, moved {layer['change']}"))
        if ranks := _ranks(layer):
            gap = " " if len(label) + len(ranks) + 3 <= width else "\n    "
            lines.append(Text(f"  {label}{gap}{ranks}"))
            lines.append(Text(f"  that of the change {layer.get('difference', '')}"))
        sides = [f"{side} {number}" for side, number in layer["overlap"].items()]
        if sides:
            lines.append(Text(f"  overlap {', '.join(sides)}"))
    return Group(*lines)
