"""Laws as plain JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from spectrank.errors import DomainError
from spectrank.invariance.laws.law import Law, NoLaw
from spectrank.invariance.laws.offsets import Offset
from spectrank.invariance.laws.terms import GramTerm, LinearTerm, SquareTerm, Term

_VERSION = 1
_CLASSES: dict[str, type[Term]] = {
    "squares": SquareTerm,
    "gram": GramTerm,
    "linear": LinearTerm,
}


def as_dict(laws: Sequence[Law], skipped: Sequence[NoLaw]) -> dict[str, Any]:
    """Return laws and places without one as plain JSON.

    Args:
        laws: The families.
        skipped: The places.

    Returns:
        Plain JSON.
    """
    return {
        "version": _VERSION,
        "laws": [
            {f.name: _plain(getattr(law, f.name)) for f in fields(law)} for law in laws
        ],
        "skipped": [
            {"name": item.name, "reason": item.reason, "kind": item.kind}
            for item in skipped
        ],
    }


def from_dict(data: Mapping[str, Any]) -> tuple[tuple[Law, ...], tuple[NoLaw, ...]]:
    """Read what `as_dict` returned.

    Args:
        data: The dictionary, also after a trip through JSON.

    Returns:
        The families and the places.

    Raises:
        DomainError: It is of another version or lacks a part.
    """
    if data.get("version") != _VERSION:
        raise DomainError(
            f"laws are stored in version {_VERSION}, got {data.get('version')!r}; "
            "find them again with this version of spectrank"
        )
    try:
        laws = tuple(_law(item) for item in data["laws"])
        return laws, tuple(NoLaw(**item) for item in data["skipped"])
    except (KeyError, TypeError) as error:
        raise DomainError(
            f"stored laws have all the fields of Law, got one without: {error}; "
            "store them with Laws.as_dict"
        ) from error


def _law(item: Mapping[str, Any]) -> Law:
    term_class = _CLASSES[item["form"]]
    terms = tuple(
        term_class(**{key: _tuple(key, value) for key, value in term.items()})
        for term in item["terms"]
    )
    # Laws stored before there were offsets have none.
    offsets = tuple(Offset(**offset) for offset in item.get("offsets", ()))
    made = {"terms": terms, "shape": tuple(item["shape"]), "offsets": offsets}
    return Law(**{**item, **made})


def _tuple(key: str, value: Any) -> Any:
    return tuple(value) if key in {"view", "axes"} else value


def _plain(value: Any) -> Any:
    if isinstance(value, SquareTerm | LinearTerm | GramTerm | Offset):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
