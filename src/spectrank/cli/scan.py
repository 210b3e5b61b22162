"""``spectrank scan``: a checkpoint in, a table and a page out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from spectrank.cli.options import Html, Out, Quiet, Select, Source, View
from spectrank.cli.outputs import (
    check_targets,
    exit_if_failed,
    interruptible,
    parse_views,
    plain,
    with_command,
    write_outputs,
)

if TYPE_CHECKING:
    from rich.console import Console

    from spectrank.scanning import Progress as Standing


def scan_command(
    source: Source,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names, options after a colon: "
            "stable_rank,energy_rank:q=0.9; 'all' for every one. Norms and stable "
            "ranks alone are the fast way. Default: all ranks and norms.",
        ),
    ] = None,
    select: Select = None,
    view: View = None,
    rtol: Annotated[
        float, typer.Option(help="Relative width of the spectral norm's enclosure.")
    ] = 1e-4,
    certify: Annotated[
        str, typer.Option(help="Upper ends: probabilistic or deterministic.")
    ] = "probabilistic",
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    out: Out = None,
    html: Html = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 1 if true of any matrix: 'stable_rank<2', "
            "'*.mlp.*:energy_rank[q=0.9]<4', '*[qkv.q]:stable_rank<4' of one part of a "
            "tensor. Repeatable."
        ),
    ] = None,
    spectra: Annotated[
        bool, typer.Option(help="Keep the full spectra in the table.")
    ] = True,
    null: Annotated[
        str | None,
        typer.Option(
            help="Compare with random matrices: permuted (the same entries in other "
            "places) or gaussian."
        ),
    ] = None,
    num_null: Annotated[int, typer.Option(help="Draws of the random matrix.")] = 1,
    compat: Annotated[
        str | None,
        typer.Option(help="Add another tool's columns under its names: weightwatcher."),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes at a time, each with one thread.")
    ] = 1,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Keeps finished matrices there: a killed scan goes on.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster; 'local' for this machine."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Ceiling of what measuring takes beside the programs, e.g. 4GB."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Where to measure, e.g. cuda: one shape at a time."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure every weight matrix of a checkpoint."""
    from rich.console import Console

    from spectrank.scanning import Gate, scan, with_gates

    # Mistakes in the options cost a second, not a scan.
    gates = [Gate.parse(text) for text in fail_if or []]
    views = parse_views(view)
    ceiling = None if memory is None else parse_bytes(memory)
    check_targets(out or [], html, source=source)
    errors = Console(stderr=True)
    bar = _ProgressBar(errors, hidden=quiet)
    with interruptible(lambda: bar.told(resume)), bar:
        table = scan(
            source,
            metrics=with_gates(metrics, gates),
            select=select,
            views=views,
            rtol=rtol,
            certify=certify,  # type: ignore[arg-type]
            seed=seed,
            spectra=spectra,
            null=null,  # type: ignore[arg-type]
            num_null=num_null,
            compat=compat,  # type: ignore[arg-type]
            workers=workers,
            resume=resume,
            ray=ray,
            memory=ceiling,
            device=device,
            progress=bar.update,
        )
    table = with_command(table)
    if not quiet:
        Console().print(table)
    write_outputs(table, out or [], html, errors, quiet=quiet)
    exit_if_failed(gates, table)


def parse_bytes(text: str) -> int:
    """Read a number of bytes such as ``4GB``, ``512 MiB`` or ``1e9``.

    Args:
        text: As given; without a unit it is bytes.

    Returns:
        Bytes.

    Raises:
        DomainError: It does not read so.
    """
    from spectrank.errors import DomainError

    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*(?:([kMGT])(i?))?B?", text.strip())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number < 1.0:
        raise DomainError(
            f"memory is a number of bytes with or without a unit, got {text!r}; "
            "e.g. 4GB or 512MiB"
        )
    base = 1024 if match[3] else 1000
    return int(number * base ** (" kMGT".index(match[2]) if match[2] else 0))


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
            # Names have brackets: they are no markup.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=hidden or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, count="", rate="")
        self._last: Standing | None = None

    def __enter__(self) -> _ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)  # type: ignore[arg-type]

    def update(self, p: Standing) -> None:
        """Show where the scan stands."""
        self._last = p
        task = self._bar.tasks[0]
        rate = p.entries_done / task.elapsed if task.elapsed else 0.0
        from spectrank.table import shortened

        self._bar.update(
            self._task,
            description=shortened(plain(p.name or "done"), 36),
            total=p.num_entries,
            completed=p.entries_done,
            count=f"{p.num_done}/{p.num_matrices}",
            rate=f"{rate / 1e6:.1f} M parameters/s" if rate else "",
        )

    def told(self, folder: str | None) -> str:
        """Say what is left of a scan that was interrupted."""
        p = self._last
        if folder is None:
            return "nothing was kept; with --resume FOLDER it would go on there"
        num = "" if p is None else f"{p.num_done} of {p.num_matrices} matrices; "
        return f"{num}the same command goes on from {folder}"
