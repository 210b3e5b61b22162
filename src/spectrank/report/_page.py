"""Rendering: templates, their styles and scripts, and one file on disk.

The page carries a content security policy that forbids every request and every script
but the two whose hashes it names, so no text of a table can run or load anything.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from spectrank.errors import ArgumentTypeError, TableError
from spectrank.report._checks import checks
from spectrank.report._claims import claims_page, claims_title, has_claims
from spectrank.report._data import safe_json, scan_rows
from spectrank.report._facts import facts, recorded
from spectrank.report._laws import laws
from spectrank.report._overview import default_title, overview
from spectrank.report._payload import payload
from spectrank.report._wiring import wiring, without_unknowns
from spectrank.table import Table, as_path, write_whole

_SCAN_SCRIPTS = (
    *("sorting.js", "report.js", "slices.js", "charts.js", "depth.js", "fits.js"),
    *("spectrum.js", "card.js", "table.js", "checks.js", "laws.js"),
    *("compare.js", "trend.js"),
    "start.js",
)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("spectrank.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _policy(scripts: list[str]) -> str:
    """Content security policy that lets these scripts run and nothing else."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests
    )
    # The heat map is an image in a data URL, a saved chart a blob.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _render(
    table: Table,
    title: str,
    *,
    template: str,
    styles: tuple[str, ...],
    scripts: tuple[str, ...],
    data: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> str:
    """A page: its own parts in the frame that all pages share."""
    environment = _environment()
    source = jinja2.PackageLoader("spectrank.report").get_source

    def read(names: tuple[str, ...]) -> str:
        return "\n".join(source(environment, name)[0] for name in names)

    script = f'(() => {{\n"use strict";\n{read(("shared.js", *scripts))}\n}})();'
    library = get_plotlyjs()
    return environment.get_template(template).render(
        title=title,
        provenance=table.provenance,
        facts=facts(table.provenance),
        recorded=recorded(table.provenance),
        policy=_policy([library, script]),
        style=read(("report.css", *styles)),
        data=safe_json(data),
        library=library,
        script=script,
        **parts,
    )


def _scan_page(table: Table, title: str | None) -> str:
    rows = scan_rows(table.frame)
    data = payload(rows)
    found = laws(table.frame)
    drawn = wiring(table.frame, rows, table.provenance)
    frame = without_unknowns(table.frame) if drawn else table.frame
    short = {(m["name"], m["view"]): m["short"] for m in data["matrices"]}
    return _render(
        table,
        title or default_title(table.provenance, measured=bool(rows), laws=bool(found)),
        template="report.html.j2",
        styles=("wiring.css", "checks.css", "laws.css"),
        scripts=_SCAN_SCRIPTS,
        data=data | ({"laws": found[1]} if found else {}),
        parts={
            "laws": found[0] if found else None,
            "course": data["course"],
            "num_slices": len(data["slices"]),
            "overview": overview(frame, rows, table.provenance),
            "wiring": drawn,
            "checks": checks(table.frame, short.keys()),
            "short": short,
            "num_matrices": len(data["matrices"]),
            "repeated": data["repeated"],
            "num_spectra": sum(spectrum is not None for spectrum in data["spectra"]),
        },
    )


def _claims_page(table: Table, title: str | None) -> str:
    texts, data = claims_page(table.frame, table.provenance)
    return _render(
        table,
        title or claims_title(table.provenance),
        template="claims.html.j2",
        styles=("claims.css",),
        scripts=("claims.js",),
        data=data,
        parts={"claims": texts},
    )


def render_html(table: Table, *, title: str | None = None) -> str:
    """The page of a table as text: one self-contained document.

    A table with rows of kind ``claim`` gives the page of these claims: statement,
    protocol, what was measured, verdict and figure of each. Any other table gives the
    page of a scan, with a section of checks where it has rows of kind ``check``; where
    its provenance holds a model graph, the page draws it. Either page requests nothing
    from any network and holds about 5 MB of chart library. A table
    without measurements gives a page that says so.

    Args:
        table: Result of a scan, of a model graph or of tried claims.
        title: Title of the page; by default the model, input or paper that the table
            names.

    Returns:
        An HTML document.

    Raises:
        ArgumentTypeError: It is no Table, or the title no text.
    """
    if not isinstance(table, Table):
        raise ArgumentTypeError(
            f"a page shows a Table, got {type(table).__name__}; make one first, "
            "e.g. spectrank.scan(model)"
        )
    if title is not None and not isinstance(title, str):
        raise ArgumentTypeError(
            f"the title of a page is text, got {title!r:.80}; leave it out for the "
            "name of the model"
        )
    page = _claims_page if has_claims(table.frame) else _scan_page
    return page(table, title)


def write_html(table: Table, path: str | Path, *, title: str | None = None) -> Path:
    """Writes the page of a table; a reader sees the old file or the whole new one.

    Args:
        table: Result of a scan, of a model graph or of tried claims; what it holds
            decides on the page, see ``render_html``.
        path: File to write; its folder must exist.
        title: Title of the page; by default the model, input or paper that the table
            names.

    Returns:
        The path written.

    Raises:
        ArgumentTypeError: It is no Table, or no path.
        TableError: The file cannot be written.
    """  # noqa: DOC502 - raised by render_html
    target = as_path(path, name="the file of a page", example="report.html")
    # A path in the input may hold bytes that are no UTF-8.
    content = render_html(table, title=title).encode("utf-8", "replace")
    try:
        write_whole({target: content})
    # The empty path and the root have no name to write under: a ValueError.
    except (OSError, ValueError) as error:
        raise TableError(
            f"a page is written into an existing, writable folder, got {target} "
            f"({getattr(error, 'strerror', None) or error}); create the folder or "
            "choose another path"
        ) from error
    return target
