"""``spectrank scan``: a checkpoint in, a table and a page out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spectrank.scanning import Gate, Progress
    from spectrank.table import Table


def scan_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A .safetensors, .pt, .pth, .bin or .ckpt file, or a folder of them."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, options after a colon: "
            "stable_rank,energy_rank:q=0.9. Norms and stable ranks alone are the "
            "fast way. Default: all.",
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Glob pattern on names, e.g. '*.mlp.*'. Repeatable."),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=VIEW where the view is not to be inferred. Repeatable."
        ),
    ] = None,
    rtol: Annotated[
        float, typer.Option(help="Relative width of the spectral norm's enclosure.")
    ] = 1e-4,
    certify: Annotated[
        str, typer.Option(help="Upper ends: probabilistic or deterministic.")
    ] = "probabilistic",
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="Write the table: .parquet, .json or .csv. Repeatable."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a self-contained HTML page.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if true of any matrix, e.g. 'stable_rank<2'. Repeatable."
        ),
    ] = None,
    spectra: Annotated[
        bool, typer.Option(help="Keep the full spectra in the table.")
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No table, no progress bar.")
    ] = False,
) -> None:
    """Measure every weight matrix of a checkpoint.

    Raises:
        Exit: With code 1 if a gate failed.
    """
    from rich.console import Console

    from spectrank.scanning import Gate, scan
    from spectrank.table import Table

    # Mistakes in the options cost a second, not a scan.
    gates = [Gate.parse(text) for text in fail_if or []]
    views = dict(_parse_view(text) for text in view or [])
    _check_targets(source, out or [], html)
    errors = Console(stderr=True)
    with _ProgressBar(errors, hidden=quiet) as bar:
        table = scan(
            source,
            metrics=_with_gates(metrics, gates),
            select=select,
            views=views,
            rtol=rtol,
            certify=certify,  # type: ignore[arg-type]
            seed=seed,
            spectra=spectra,
            progress=bar.update,
        )
    table = Table(table.frame, {**table.provenance, "command": _command()})
    if not quiet:
        Console().print(table)
    _write(table, out or [], html, errors, quiet)
    failures = [line for gate in gates for line in _failed(gate, table)]
    for line in failures:
        typer.secho(line, fg="red", err=True)
    if failures:
        raise typer.Exit(1)


def _check_targets(source: str, out: list[Path], html: Path | None) -> None:
    """Refuse what cannot be written, or would overwrite the source or each other."""
    from spectrank.errors import TableError
    from spectrank.table import check_target

    for path in out:
        check_target(path)
    if html is not None and (
        html.suffix.lower() not in {".html", ".htm"}
        or not html.absolute().parent.is_dir()
        or html.is_dir()
    ):
        raise TableError(
            f"a page is an .html file in an existing folder, got {html}; "
            "create the folder or choose another path"
        )
    targets = [path.resolve() for path in [*out, *([html] if html else [])]]
    if len(set(targets)) < len(targets) or Path(source).resolve() in targets:
        raise TableError(
            "each output is a file of its own and none is the source, got "
            f"{', '.join(map(str, targets))}; choose other names"
        )


def _command() -> str:
    return shlex.join(["spectrank", *sys.argv[1:]])


def _with_gates(metrics: str | None, gates: list[Gate]) -> list[str]:
    """Return the metrics asked for and those that the gates look at."""
    from spectrank.scanning import parse_metrics

    requests = parse_metrics(metrics)
    more = [gate.request for gate in gates if not gate.served_by(requests)]
    return [request.text for request in (*requests, *more)]


def _failed(gate: Gate, table: Table) -> list[str]:
    return [f"gate {gate.text}: {line}" for line in gate.failures(table)]


def _parse_view(text: str) -> tuple[str, str]:
    from spectrank.errors import DomainError

    pattern, separator, name = text.rpartition("=")
    if not separator or not pattern or not name:
        raise DomainError(
            f"a view reads PATTERN=VIEW, got {text!r}; e.g. '*.c_fc.weight=linear'"
        )
    return pattern, name


def _write(
    table: Table, out: list[Path], html: Path | None, errors: Console, quiet: bool
) -> None:
    from spectrank.report import write_html

    written = [path for target in out for path in table.write(target)]
    if html is not None:
        written.append(write_html(table, html))
    if not quiet:
        for path in written:
            errors.print(f"wrote {path}", highlight=False, soft_wrap=True)


class _ProgressBar:
    """Layer, matrices done, rate in parameters per second, time left."""

    def __init__(self, console: Console, *, hidden: bool) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=hidden or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, count="", rate="")

    def __enter__(self) -> _ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)  # type: ignore[arg-type]

    def update(self, p: Progress) -> None:
        """Show where the scan stands."""
        task = self._bar.tasks[0]
        rate = p.entries_done / task.elapsed if task.elapsed else 0.0
        self._bar.update(
            self._task,
            description=_shorten(p.name or "done", 36),
            total=p.num_entries,
            completed=p.entries_done,
            count=f"{p.num_done}/{p.num_matrices}",
            rate=f"{rate / 1e6:.1f} M parameters/s" if rate else "",
        )


def _shorten(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[1 - width :]
