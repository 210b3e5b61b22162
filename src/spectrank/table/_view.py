"""A Table on a terminal of any width, and as a small HTML table.

A column that does not fit is dropped from the end and named in the caption: never a
number cut in half.
"""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from spectrank.table._blocks import Block, Cell, Column, blocks
from spectrank.table._text import name_width, shortened, stacked

if TYPE_CHECKING:
    from spectrank.table._table import Table

_GAP = 2
_LEAST_NAME = 20
_LEAST_TEXT = 16
_LEAST_KEPT = 9
_MOST_TEXT = 48
_MOST_NAMED = 3
_NAMES = ("subject", "metric", "variant", "index")
_NUMBERS = frozenset(["metric", "number"])


def console_table(table: "Table", width: int) -> Group:
    """The table for a terminal.

    Args:
        table: The Table.
        width: Columns of the terminal.

    Returns:
        Something that rich prints.
    """
    shown, notes = blocks(table.frame)
    if not shown:
        return Group(Text("no rows", style="dim"))
    parts: list[RenderableType] = []
    for number, block in enumerate(shown):
        parts += [Text("")] if number else []
        parts += _console_block(block, width)
    parts += [_note(line) for line in notes]
    return Group(*parts)


def html_table(table: "Table") -> str:
    """The table as HTML for a notebook, every column, at most 40 rows a grid.

    Args:
        table: The Table.

    Returns:
        A self-contained fragment with every text escaped.
    """
    shown, notes = blocks(table.frame)
    parts = [_html_block(block) for block in shown] or ["<p>no rows</p>"]
    parts += [_html_note(line) for line in notes]
    return f"<div>{''.join(parts)}</div>"


def _console_block(block: Block, width: int) -> list[RenderableType]:
    layout, dropped = _layout(block.columns, width)
    grid = Grid(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column, cells in layout:
        grid.add_column(
            Text(stacked(column.header, cells), style="bold", justify=_side(column)),
            width=cells,
            overflow="fold" if column.role == "text" else "ellipsis",
            no_wrap=column.role != "text",
        )
    for row in zip(*(column.cells for column, _ in layout), strict=True):
        grid.add_row(
            *(
                _text(cell, column, cells)
                for cell, (column, cells) in zip(row, layout, strict=True)
            )
        )
    notes = [_note(line) for line in _notes(block)]
    if reason := [c for c in dropped if c.role == "text" and c.header == "reason"]:
        notes += map(Text, _reasons(block))
        dropped.remove(reason[0])
    if dropped:
        names = ", ".join(column.header for column in dropped)
        noun = "column" if len(dropped) == 1 else "columns"
        line = f"{len(dropped)} more {noun} in a wider terminal or in a file"
        notes.append(_note(f"{line} (table.write): {names}"))
    return [Text(block.title, style="bold"), Text(""), grid, Text(""), *notes]


def _layout(
    columns: Sequence[Column], width: int
) -> tuple[list[tuple[Column, int]], list[Column]]:
    natural = [_natural(column) for column in columns]
    name, full = columns[0], natural[0]
    # Held back for what is to be shown whatever else is not; its texts may fold.
    kept = [
        min(wanted, _LEAST_KEPT) if column.role == "text" else wanted
        for column, wanted in zip(columns, natural, strict=True)
    ]
    held = sum(
        wanted + _GAP
        for column, wanted in zip(columns, kept, strict=True)
        if column.kept
    )
    first = full
    if sum(natural) + _GAP * (len(columns) - 1) > width:
        least = min(_LEAST_NAME, width // 3, full)
        first = name_width([cell.text for cell in name.cells], least, full)
        # More than half only where names would be the same otherwise.
        first = min(first, max(least, width // 2, width - held))
    room = width - first
    layout: list[tuple[Column, int]] = []
    dropped: list[Column] = []
    for column, wanted, least in zip(columns[1:], natural[1:], kept[1:], strict=True):
        held -= least + _GAP if column.kept else 0
        need = wanted
        if column.kept:
            need = min(wanted, max(least, room - held - _GAP))
        elif column.role == "text":
            need = min(wanted, max(_LEAST_TEXT, room - _GAP))
        # Numbers keep their order without gaps: after the first that does not fit
        # none is shown. A shape is no metric and stops none.
        stopped = column.role in _NUMBERS and column.role in {d.role for d in dropped}
        if need + _GAP > room - held or (stopped and not column.kept):
            dropped.append(column)
            continue
        layout.append((column, need))
        room -= need + _GAP
    first += max(0, min(room, full - first))
    return [(name, first), *layout], dropped


def _natural(column: Column) -> int:
    widest = max((cell_len(cell.text) for cell in column.cells), default=0)
    header = stacked(column.header, widest)
    widest = max(widest, *map(cell_len, header.split("\n")))
    return min(widest, _MOST_TEXT) if column.role == "text" else widest


def _text(cell: Cell, column: Column, width: int) -> Text:
    text = shortened(cell.text, width) if column.role == "name" else cell.text
    if _side(column) == "right":
        # By hand: rich would strip the spaces that keep numbers beside a ± in line.
        text = " " * (width - cell_len(text)) + text
    return Text(text, style=cell.style)


def _notes(block: Block) -> list[str]:
    if not block.num_hidden:
        return list(block.notes)
    return [f"… and {block.num_hidden} more {block.noun}", *block.notes]


def _reasons(block: Block) -> list[str]:
    # A verdict is never shown without its reason: where the column has no room,
    # a line below has. Rows with one reason share a line.
    cells = {column.header: column.cells for column in block.columns}
    told = _NAMES[:1] if block.noun == "laws" else _NAMES
    names = [cells[name] for name in told if name in cells]
    groups: dict[str, dict[str, None]] = {}
    for *row, reason in zip(*names, cells["reason"], strict=True):
        if reason.text:
            name = " ".join(cell.text for cell in row if cell.text)
            groups.setdefault(reason.text, {}).setdefault(name)
    return [f"{_few(list(found))}: {text}" for text, found in groups.items()]


def _few(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def _note(line: str) -> Text:
    return Text(line, style="dim")


def _html_block(block: Block) -> str:
    head = "".join(
        f'<th style="{_css(column)}">{html.escape(column.header)}</th>'
        for column in block.columns
    )
    body = "".join(
        "<tr>" + "".join(map(_html_cell, block.columns, row)) + "</tr>"
        for row in zip(*(column.cells for column in block.columns), strict=True)
    )
    return (
        f"<p><b>{html.escape(block.title)}</b></p>"
        '<div style="overflow-x:auto"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + "".join(map(_html_note, _notes(block)))
    )


def _html_cell(column: Column, cell: Cell) -> str:
    style = _css(column)
    text = html.escape(cell.text.rstrip())
    if column.role in _NUMBERS:
        style += ";white-space:nowrap;font-variant-numeric:tabular-nums"
    return f'<td style="{style}">{f"<b>{text}</b>" if cell.style else text}</td>'


def _html_note(line: str) -> str:
    return f'<p style="opacity:.7">{html.escape(line)}</p>'


def _css(column: Column) -> str:
    return f"text-align:{_side(column)};padding:2px 8px"


def _side(column: Column) -> Literal["left", "right"]:
    return "right" if column.role in _NUMBERS else "left"
