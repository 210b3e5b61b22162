"""Provenance for people: the lines looked for first, and all that was recorded."""

import json
from collections.abc import Mapping
from typing import Any

from spectrank.report._data import finite_or_none

_BULKY = {
    "graph": "drawn under Wiring",
    "figures": "titles and axes, drawn with the claims",
}


def listing(value: object) -> str:
    """A value of a provenance on one line.

    Args:
        value: Text, a number, or mappings and lists of these.

    Returns:
        Its items joined by commas; ``all`` for None.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {listing(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(listing(item) for item in value)
    return "all" if value is None else str(value)


def _plain(value: object) -> object:
    """A provenance value as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return finite_or_none(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def _without_bulk(provenance: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _BULKY.get(key, value) for key, value in provenance.items()}
    sources = kept.get("sources")
    if isinstance(sources, list):
        kept["sources"] = [
            _without_bulk(source) if isinstance(source, Mapping) else source
            for source in sources
        ]
    return kept


def recorded(provenance: Mapping[str, Any]) -> str:
    """The provenance as JSON, without what the page draws anyway.

    Args:
        provenance: Provenance of a table.

    Returns:
        Indented JSON; the graph and the figures' titles are named, not repeated.
    """
    plain = _plain(_without_bulk(provenance))
    return json.dumps(plain, indent=2, ensure_ascii=False)


def facts(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of provenance that a reader looks for first.

    Args:
        provenance: Provenance of a table; every key is optional.

    Returns:
        Names and texts.
    """
    settings = provenance.get("settings")
    seconds = provenance.get("seconds")
    lines = [
        ("Command", provenance.get("command")),
        ("Mode", provenance.get("mode")),
        ("Input", provenance.get("input")),
        ("Input hash", provenance.get("input_hash")),
        ("Model", provenance.get("model")),
        ("Started", provenance.get("started")),
        ("Seconds", f"{seconds:.3g}" if isinstance(seconds, int | float) else seconds),
        ("Device", provenance.get("device")),
        ("Seed", provenance.get("seed")),
        ("Seeds", provenance.get("seeds")),
    ]
    told = {name for name, value in lines if value is not None}
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        name = str(key).replace("_", " ").capitalize()
        # The seed of a scan is among its settings and beside them.
        if name not in told:
            lines.append((name, listing(value)))
    own = provenance.get("spectrank_version")
    versions = provenance.get("versions")
    others = listing(versions) if isinstance(versions, Mapping) and versions else None
    lines += [("spectrank", own), ("Versions", others)]
    return [(name, listing(value)) for name, value in lines if value is not None]
