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
    shorten,
    with_command,
    write_outputs,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from spectrank.table import Table

_HELP = "A weights file or a folder of them."
# From this many columns on each matrix has one line.
_WIDE = 90


def compare_command(
    before: Annotated[str, typer.Argument(help=_HELP)],
    after: Annotated[str, typer.Argument(help=_HELP)],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, as for scan. Default: stable and effective "
            "rank, spectral and Frobenius norm."
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

    layers = sorted(_layers(table), key=lambda layer: layer["place"])
    moved = [layer for layer in layers if not layer["same"]]
    if moved:
        console.print(
            _grid(moved, console) if console.width >= _WIDE else _lines(moved, console),
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


def _layers(table: Table) -> list[dict[str, Any]]:
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
        elif metric == "stable_rank":
            layer[run] = _number(row)
    for key, name in matrix_names(found).items():
        found[key]["name"] = name
    return list(found.values())


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


def _grid(layers: list[dict[str, Any]], console: Console) -> RenderableType:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    width = min(max(len(layer["name"]) for layer in layers), console.width - 66)
    grid.add_column("matrix", width=max(width, 16))
    for title in (
        "shape",
        "relative\nchange",
        "stable rank\nbefore → after",
        "of the\ndifference",
        "overlap\nleft right",
    ):
        grid.add_column(title, justify="right", no_wrap=True)
    for layer in layers:
        grid.add_row(
            Text(shorten(layer["name"], max(width, 16))),
            layer["shape"],
            layer["change"],
            _ranks(layer),
            layer.get("difference", ""),
            _overlap(layer),
        )
    return grid


def _lines(layers: list[dict[str, Any]], console: Console) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    lines = []
    for layer in layers:
        name = shorten(layer["name"], max(console.width, 16))
        lines.append(Text(name, style="bold"))
        lines.append(Text(f"  {layer['shape']}, moved {layer['change']}"))
        if ranks := _ranks(layer):
            lines.append(Text(f"  stable rank {ranks}"))
            lines.append(Text(f"  that of the change {layer['difference']}"))
        lines.append(Text(f"  overlap {_overlap(layer)}"))
    return Group(*lines)
