"""The claims page: each claim with its protocol, its number and its verdict.

Everything here is text and numbers for the template, which escapes them. A claim is a
row of kind ``claim``; its figure is made of the measurement rows of the same subject
and run.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from spectrank.report._data import Row, finite_or_none
from spectrank.report._figures import figure, figure_table
from spectrank.report._numbers import interval_texts, level_text, plain_text
from spectrank.report._verdicts import NO_VERDICT, verdict

_MOST_AT_A_GLANCE = 20
_VERDICTS = ("reproduced", "contradicted", "inconclusive", "not_applicable")


def has_claims(frame: pl.DataFrame) -> bool:
    """Whether a table is shown as a page of claims.

    Args:
        frame: The frame of a Table.

    Returns:
        True if a row is of kind ``claim``.
    """
    return bool((frame["kind"] == "claim").any())


def _origins(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenance and, of a concatenated table, that of each part."""
    sources = provenance.get("sources")
    parts = sources if isinstance(sources, list) else []
    return [provenance, *(part for part in parts if isinstance(part, Mapping))]


def papers(provenance: Mapping[str, Any]) -> list[dict[str, str]]:
    """Papers whose claims the table holds.

    Args:
        provenance: Provenance of the table.

    Returns:
        Title, authors and identifier of each, empty texts for what is not given.
    """
    found = []
    for origin in _origins(provenance):
        paper = origin.get("paper")
        if not isinstance(paper, Mapping):
            continue
        authors = paper.get("authors")
        if isinstance(authors, list):
            authors = ", ".join(map(str, authors))
        entry = {
            "title": str(paper.get("title") or paper.get("key") or "Untitled"),
            "authors": str(authors or ""),
            "identifier": str(paper.get("identifier") or ""),
        }
        if entry not in found:
            found.append(entry)
    return found


def claims_title(provenance: Mapping[str, Any]) -> str:
    """Title of a claims page when the caller gives none.

    Args:
        provenance: Provenance of the table.

    Returns:
        The title of the paper, when there is one paper.
    """
    found = papers(provenance)
    if len(found) == 1:
        return found[0]["title"]
    return f"Claims of {len(found)} papers" if found else "Claims"


def _tally(claims: Sequence[Row]) -> list[dict[str, Any]]:
    """Counts of the verdicts: the four of a claim always, others where they occur."""
    counts = Counter(row.get("verdict") or NO_VERDICT for row in claims)
    others = sorted(counts.keys() - set(_VERDICTS))
    return [{"count": counts[name], **verdict(name)} for name in [*_VERDICTS, *others]]


def _real(value: object) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool)
        else None
    )


def _interval_kind(row: Row) -> str:
    kind, level = row.get("error_kind"), row.get("failure_probability")
    if kind in {None, "stderr"}:
        return f"{level_text(level)} confidence interval"
    return f"{kind} interval"


def _card(number: int, row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    texts = {
        name: None if (text := row.get(name)) is None else str(text)
        for name in ("statement", "whose", "protocol", "relation", "seeds", "source")
    }
    value, interval = interval_texts(row["value"], row["lower"], row["upper"])
    ends = [x for x in (row["lower"], row["upper"]) if x is not None]
    status = row["status"]
    num_seeds = row.get("num_seeds")
    return texts | {
        "anchor": f"claim-{number}",
        "number": number,
        "key": row["subject"],
        "statement": texts["statement"] or row["subject"],
        "quantity": str(row["metric"]).replace("_", " "),
        "value": "not measured" if row["value"] is None else value,
        "interval": interval,
        "interval_kind": _interval_kind(row) if interval else None,
        "digits": ", ".join(repr(x) for x in (row["value"], *ends) if x is not None),
        "bound": None if row["bound"] is None else plain_text(row["bound"]),
        "tolerance": _stated(row.get("tolerance")),
        "effect": _stated(row.get("effect_size"), 3),
        "num_seeds": None if num_seeds is None else f"{num_seeds}",
        "verdict": verdict(row.get("verdict")),
        "reason": row["reason"] or "no reason given",
        "status": None if status in {None, "ok"} else status.replace("_", " "),
        "table": figure_table(rows) if rows else None,
    }


def _stated(value: object, digits: int = 4) -> str | None:
    number = _real(value)
    return None if number is None else plain_text(number, digits)


def _own_rows(claim: Row, measured: Mapping[Any, Sequence[Row]]) -> Sequence[Row]:
    """Rows of the claim's own run; of any run where its own has none."""
    subject = claim["subject"]
    return measured.get((subject, claim["run"])) or measured.get((subject,)) or ()


def claims_page(
    frame: pl.DataFrame, provenance: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template of the claims page needs, and what its script draws.

    Args:
        frame: The frame of a table with rows of kind ``claim``.
        provenance: Its provenance; every key is optional.

    Returns:
        Texts for the template, and ``{"figures": [...]}`` as JSON values, one entry
        for each claim and None where it has no figure.
    """
    claims = frame.filter(pl.col("kind") == "claim").to_dicts()
    subjects = {claim["subject"] for claim in claims}
    measured: dict[Any, list[Row]] = {}
    num_shown = len(claims)
    for row in frame.filter(pl.col("kind") == "measurement").iter_rows(named=True):
        if row["subject"] in subjects:
            measured.setdefault((row["subject"], row["run"]), []).append(row)
            measured.setdefault((row["subject"],), []).append(row)
            num_shown += 1
    infos: dict[str, Any] = {}
    for origin in _origins(provenance):
        if isinstance(given := origin.get("figures"), Mapping):
            infos = {**given, **infos}
    cards, figures = [], []
    for number, claim in enumerate(claims, start=1):
        rows = _own_rows(claim, measured)
        drawn = figure(rows, infos.get(claim["subject"])) if rows else None
        cards.append(_card(number, claim, rows) | {"figure": drawn})
        figures.append(drawn)
    told = Counter(card["statement"] for card in cards)
    for card in cards:
        # The same statement on several data sets: the key tells them apart.
        card["told_by_key"] = told[card["statement"]] > 1
    texts = {
        "papers": papers(provenance),
        "cards": cards,
        "unsettled": _unsettled(cards),
        "tally": _tally(claims),
        "num_seeds": _seed_span(claims),
        "quick": provenance.get("mode") == "quick",
        "num_unshown": frame.height - num_shown,
    }
    return texts, {"figures": figures}


def _unsettled(cards: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was not reproduced, where the list is too long to find it in."""
    if len(cards) <= _MOST_AT_A_GLANCE:
        return []
    return [card for card in cards if card["verdict"]["tone"] != "good"]


def _seed_span(claims: Sequence[Row]) -> str | None:
    """Fewest and most seeds behind one claim."""
    counts = {
        int(count)
        for row in claims
        if (count := finite_or_none(_real(row.get("num_seeds")))) is not None
    }
    if not counts:
        return None
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
