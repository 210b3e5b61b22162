"""Short labels for long names of parameters, their roles in charts, names of columns.

A name is a dotted path. Its *template* is the path without a trailing ``weight`` and
with every number replaced by ``*``; matrices of one template play one role, repeated
over the blocks of the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_LABEL = 34
_NUMBERED = "numbered layers"


def shorten(text: str, limit: int = MAX_LABEL) -> str:
    """Cuts the middle out of a text that is longer than ``limit`` characters.

    Args:
        text: Any text.
        limit: Largest length of the result, at least 3.

    Returns:
        The text itself, or its two ends around an ellipsis.
    """
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[-tail:]}"


def _parts(name: str) -> list[str]:
    parts = name.split(".")
    return parts[:-1] if len(parts) > 1 and parts[-1] == "weight" else parts


def _template(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple("*" if part.isdigit() else part for part in parts)


def _ends_with(path: tuple[str, ...], suffix: tuple[str, ...]) -> bool:
    return path[-len(suffix) :] == suffix


def _shortest_suffix(
    path: tuple[str, ...], templates: set[tuple[str, ...]]
) -> tuple[str, ...]:
    """The shortest ending that no other template has and that names something."""
    for length in range(1, len(path)):
        suffix = path[-length:]
        named = any(part != "*" for part in suffix)
        if named and sum(_ends_with(other, suffix) for other in templates) == 1:
            return suffix
    return path


def labels(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Short label and role of each name.

    The label keeps the numbers in front of the role, so two different names never
    share a label unless both are cut by ``shorten``.

    Args:
        names: Parameter names, repeats allowed.

    Returns:
        The labels (``0 · query``) and the roles (``query``), in the order of ``names``.

    Example:
        >>> labels(["h.0.attn.query.weight", "h.1.attn.query.weight", "wte.weight"])
        (['0 · query', '1 · query', 'wte'], ['query', 'query', 'wte'])
    """
    paths = {name: _parts(name) for name in names}
    templates = {_template(path) for path in paths.values()}
    suffixes = {
        template: _shortest_suffix(template, templates) for template in templates
    }
    known: dict[str, tuple[str, str]] = {}
    for name, path in paths.items():
        suffix = suffixes[_template(path)]
        # Leading numbers of the suffix belong to the block, not to the role.
        named = next((i for i, part in enumerate(suffix) if part != "*"), 0)
        length = len(suffix) - named
        head, tail = path[:-length], path[-length:]
        block = ".".join(part for part in head if part.isdigit())
        label = ".".join(tail)
        role = ".".join(suffix[named:])
        # Of a plain sequence nothing but the numbers is known.
        role = _NUMBERED if role == "*" else role
        known[name] = (f"{block} · {label}" if block else label, role)
    return (
        [shorten(known[name][0]) for name in names],
        [shorten(known[name][1]) for name in names],
    )


def column_label(row: Mapping[str, Any]) -> str:
    """Name of a metric column for people.

    Args:
        row: A row with ``metric`` and, perhaps, ``variant`` and ``index``.

    Returns:
        The metric with spaces, variant and index in brackets.
    """
    marks = [str(row["variant"])] if row.get("variant") is not None else []
    if row.get("index") is not None:
        marks.append(f"index {row['index']}")
    name = str(row["metric"]).replace("_", " ")
    return f"{name} ({', '.join(marks)})" if marks else name


def column_labels(columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of columns, with what they are of where the metric alone does not tell.

    Args:
        columns: What `column_label` takes, with ``of`` and ``cells``.

    Returns:
        One name each: ``wcv · gradients`` beside ``wcv · features``.
    """
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for column in columns:
        alike.setdefault(column_label(column), []).append(column)
    names = []
    for column in columns:
        name = column_label(column)
        telling = [
            str(column[key])
            for key in ("of", "cells")
            if column[key] is not None and len({c[key] for c in alike[name]}) > 1
        ]
        names.append(" · ".join([name, *telling]))
    return names
