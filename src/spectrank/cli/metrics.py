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
        for metric in list_metrics()
    ]
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    _print(entries)


def _range(metric: Metric) -> str:
    # Evaluated at an odd k, so that the limit k itself can be told from a number.
    probe = 7919
    limits = ("k" if x == probe else f"{x:g}" for x in metric.range(probe))
    return f"[{', '.join(limits)}]"


def _print(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(
        "s_1 >= s_2 >= ... singular values of W (m x n), k = min(m, n)\n",
        style="dim",
        highlight=False,
    )
    for entry in entries:
        options = entry["options"]
        suffix = "".join(f":{k}={v}" for k, v in options.items() if v is not None)
        console.print(Text(f"{entry['name']}{suffix}", style="bold cyan"))
        needs, invariances = entry["needs"], entry["invariances"]
        lines = {
            "formula": entry["formula"],
            "range": entry["range"],
            "needs": ", ".join(needs),
            "invariant": ", ".join(invariances),
            "source": entry["source"],
        }
        for label, text in lines.items():
            line = Text(f"  {label:<10}", style="dim").append(
                str(text), style="not dim"
            )
            console.print(line, soft_wrap=False)
        console.print()
