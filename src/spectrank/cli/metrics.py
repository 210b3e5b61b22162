"""``spectrank metrics``: the catalogue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spectrank.metrics import Metric


def metrics_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the catalogue as JSON.")
    ] = False,
) -> None:
    """List every metric: formula, what it needs, invariances, range, source.

    s_1 >= s_2 >= ... are the singular values of W (m x n), k = min(m, n).
    """
    from spectrank.metrics import list_metrics

    entries: list[dict[str, Any]] = [
        {
            "name": metric.name,
            "summary": metric.summary,
            "formula": metric.formula,
            "needs": sorted(metric.needs(metric.parameters)),
            "options": dict(metric.parameters),
            "invariances": sorted(metric.invariances),
            "range": _range(metric),
            "source": metric.source,
        }
        for metric in sorted(list_metrics(), key=_order)
    ]
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    _print(entries)


def _order(metric: Metric) -> int:
    """Return the place in a scan's default set; plug-ins come last."""
    from spectrank.scanning import DEFAULT_METRICS

    names = [text.split(":")[0] for text in DEFAULT_METRICS]
    return names.index(metric.name) if metric.name in names else len(names)


def _range(metric: Metric) -> str:
    # Evaluated at an odd k, so that the limit k itself can be told from a number.
    probe = 7919
    limits = ("k" if x == probe else f"{x:g}" for x in metric.range(probe))
    return f"[{', '.join(limits)}]"


def _print(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console()
    legend = "s_1 >= s_2 >= ... singular values of W (m x n), k = min(m, n)"
    console.print(Text(legend, style="dim"))
    for entry in entries:
        options = entry["options"].items()
        suffix = "".join(f":{k}={v}" for k, v in options if v is not None)
        console.print()
        console.print(Text(f"{entry['name']}{suffix}", style="bold cyan"))
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(Text("formula", style="dim"), Text(entry["formula"]))
        grid.add_row(Text("range", style="dim"), Text(entry["range"]))
        for label in ("needs", "invariances"):
            grid.add_row(Text(label, style="dim"), Text(", ".join(entry[label])))
        grid.add_row(Text("source", style="dim"), Text(entry["source"]))
        console.print(Padding(grid, (0, 0, 0, 2)))
