"""Rendering: the template, its styles and scripts, and one file on disk.

The page carries a content security policy that forbids every request and every script
but the two whose hashes it names, so no text of a table can run or load anything.
"""

import base64
import hashlib
import os
import secrets
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from spectrank.errors import TableError
from spectrank.report._data import payload, safe_json, scan_rows
from spectrank.report._overview import default_title, overview
from spectrank.table import Table

_SCRIPTS = ("report.js", "charts.js", "spectrum.js", "table.js", "start.js")


def _environment(loader: jinja2.BaseLoader) -> jinja2.Environment:
    return jinja2.Environment(
        loader=loader,
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


def render_html(table: Table, *, title: str | None = None) -> str:
    """The page of a scan as text: one self-contained document.

    It requests nothing from any network and holds about 5 MB of chart library. A table
    without measurements gives a page that says so.

    Args:
        table: Result of a scan.
        title: Title of the page; by default the model or input that the table names.

    Returns:
        An HTML document.
    """
    loader = jinja2.PackageLoader("spectrank.report")
    environment = _environment(loader)
    rows = scan_rows(table.frame)
    data = payload(rows)
    code = "\n".join(loader.get_source(environment, name)[0] for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\n{code}\n}})();'
    library = get_plotlyjs()
    return environment.get_template("report.html.j2").render(
        title=title or default_title(table.provenance),
        provenance=table.provenance,
        overview=overview(table.frame, rows, table.provenance),
        short={(m["name"], m["view"]): m["short"] for m in data["matrices"]},
        repeated=data["repeated"],
        num_spectra=sum(spectrum is not None for spectrum in data["spectra"]),
        policy=_policy([library, script]),
        style=loader.get_source(environment, "report.css")[0],
        data=safe_json(data),
        library=library,
        script=script,
    )


def write_html(table: Table, path: str | Path, *, title: str | None = None) -> Path:
    """Writes the page of a scan; a reader sees the old file or the whole new one.

    Args:
        table: Result of a scan.
        path: File to write; its folder must exist.
        title: Title of the page; by default the model or input that the table names.

    Returns:
        The path written.

    Raises:
        TableError: The file cannot be written.
    """
    target = Path(path)
    # A path in the input may hold bytes that are no UTF-8.
    content = render_html(table, title=title).encode("utf-8", "replace")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise TableError(
            f"a page is written into an existing, writable folder, got {target} "
            f"({error.strerror or error}); create the folder or choose another path"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target
