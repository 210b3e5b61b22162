"""``spectrank views``: how a tensor becomes matrices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

_SWAP = "-transposed"
_OPTIONS: Mapping[str, str] = {
    "heads": "heads=H, the number of heads",
    "kv_heads": "kv_heads=K, the number of key heads",
    "each": "each=head, a matrix per head",
    "groups": "groups=G of the convolution",
    "size": "the input, e.g. 32x32; may stand alone",
    "padding": "padding=1, 1x1, 0-1x0-1 (before-after) or circular",
    "stride": "stride=2x2",
    "dilation": "dilation=1x1",
    "around": "around=1x1, circular padding of that width",
    "transposed": "transposed=1, of a transposed convolution",
    "output_padding": "output_padding=1x1",
}


def views_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the views as JSON.")
    ] = False,
) -> None:
    """List every view: how a tensor becomes one matrix or several.

    A module, a name or a configuration tells the view as a rule; --view tells it
    otherwise. Options follow a colon: qkv:heads=12:each=head, conv-operator:32x32.
    """
    entries = catalogue()
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    _print(entries)


def catalogue() -> list[dict[str, Any]]:
    """Every view and layout.

    Returns:
        Name, description, options, those that are needed, and whether the tensor may
        be stored (inputs, outputs) under the name with ``-transposed``.
    """
    from spectrank.model import LAYOUTS, VIEWS

    entries: list[dict[str, Any]] = [
        {"name": view.name, "description": view.description, "options": []}
        for view in VIEWS.values()
    ]
    names = {*VIEWS, *LAYOUTS}
    for layout in LAYOUTS.values():
        stem = layout.name.removesuffix(_SWAP)
        if stem != layout.name and stem in LAYOUTS:
            continue
        entries.append(
            {
                "name": layout.name,
                "description": layout.description,
                "options": list(layout.options),
                "needs": list(layout.needs),
                "transposed": f"{layout.name}{_SWAP}" in names,
            }
        )
    return entries


def _print(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    legend = (
        "--view 'PATTERN=VIEW', or one VIEW for all that it fits; options behind "
        "colons: qkv:heads=12:each=head. [-transposed]: the same stored (inputs, "
        "outputs)."
    )
    console.print(Text(legend, style="dim"))
    for entry in entries:
        name = Text(entry["name"], style="bold")
        if entry.get("transposed"):
            name.append("[-transposed]", style="dim")
        console.print(name)
        console.print(Padding(Text(entry["description"]), (0, 0, 0, 4)))
        for option in entry["options"]:
            needed = " (needed)" if option in entry["needs"] else ""
            text = Text(f"{_OPTIONS.get(option, option)}{needed}", style="dim")
            console.print(Padding(text, (0, 0, 0, 8)))
