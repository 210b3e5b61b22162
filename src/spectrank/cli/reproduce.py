"""``spectrank reproduce``: the claims of a paper, put to the test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectrank.cli.options import Html, Out
from spectrank.cli.outputs import check_targets, with_command, write_outputs

if TYPE_CHECKING:
    from rich.console import Console

    from spectrank.experiments import Paper, Progress
    from spectrank.table import Table

_COLOURS = {
    "reproduced": "green",
    "contradicted": "red",
    "inconclusive": "yellow",
    "not_applicable": "dim",
}
# Below this many columns a claim is a block of lines instead of a row.
_WIDE = 100
# A number with more decimals is written with its exponent.
_DECIMALS = 6


def reproduce_command(
    key: Annotated[
        str | None,
        typer.Argument(help="Of the paper; without it the papers are listed."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="All data sets and more seeds, or bundled data in a few minutes.",
        ),
    ] = False,
    html: Html = None,
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Base seed of all random streams.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of finished parts; a run that was cut resumes."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 unless all are reproduced.")
    ] = False,
    claims: Annotated[
        bool,
        typer.Option("--claims", help="List the claims of the paper and run nothing."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No summary, no progress bar.")
    ] = False,
) -> None:
    """Put the claims of a paper to the test.

    Raises:
        DomainError: If options of a run are given and no paper.
        Exit: With code 1 if ``--strict`` and a claim was not reproduced.
    """
    from rich.console import Console

    if key is None:
        if html is not None or out or cache is not None or full or strict or claims:
            from spectrank.errors import DomainError

            raise DomainError(
                "options of a run go with a paper, got none; name one, "
                "e.g. spectrank reproduce georgiev2021stable --html page.html"
            )
        _list_papers(Console())
        return
    if claims:
        _list_claims(key, Console())
        return
    from spectrank.experiments import get_paper, reproduce

    # Mistakes in the options cost a second, not a run.
    paper = get_paper(key)
    check_targets(out or [], html)
    errors = Console(stderr=True)
    with _ProgressBar(errors, hidden=quiet) as bar:
        table = reproduce(
            paper.key,
            "full" if full else "quick",
            seed=seed,
            cache=cache,
            progress=bar.update,
        )
    table = with_command(table)
    if not quiet:
        _summarise(table, Console())
    write_outputs(table, out or [], html, errors, quiet=quiet)
    verdicts = table.where(kind="claim").frame["verdict"].to_list()
    if strict and set(verdicts) != {"reproduced"}:
        raise typer.Exit(1)


def _list_papers(console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from spectrank.experiments import list_papers

    for paper in list_papers():
        console.print(Text(paper.key, style="bold cyan"))
        about = f"{paper.title}. {paper.authors}, {paper.identifier}."
        console.print(Padding(Text(about), (0, 0, 0, 2)))
        for mode in ("quick", "full"):
            claims = len(paper.claims(mode))
            cost = f"--{mode}: {claims} claims, {paper.cost[mode]}"
            console.print(Padding(Text(cost, "dim"), (0, 0, 0, 2)))
    console.print(
        "spectrank reproduce KEY --claims lists the claims of one", style="dim"
    )


def _list_claims(key: str, console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from spectrank.experiments import get_paper

    paper = get_paper(key)
    for claim in paper.claims("quick"):
        name = claim.key.removeprefix(f"{paper.key}.")
        console.print(Text(name, style="bold"))
        quantity = claim.quantity.replace("_", " ")
        about = f"{claim.statement}\n{quantity} {claim.relation_text}"
        lines = Text.assemble(about, (f"\n{claim.whose}", "dim"))
        console.print(Padding(lines, (0, 0, 0, 2)))
    _print_full_only(paper, console)


def _print_full_only(paper: Paper, console: Console) -> None:
    more = len(paper.claims("full")) - len(paper.claims("quick"))
    if more:
        console.print(f"  and {more} more with --full", style="dim", highlight=False)


def _summarise(table: Table, console: Console) -> None:
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    claims = list(table.where(kind="claim"))
    paper = table.provenance["paper"]
    console.print(
        Text(f"{paper['title']} ({paper['identifier']})", style="bold"),
        Text(f"mode {table.provenance['mode']}, seed {table.provenance['seed']}"),
        sep="\n",
    )
    if console.width >= _WIDE:
        grid = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for title, width in (("verdict", 14), ("claim", None), ("measured", 27)):
            grid.add_column(title, width=width)
        grid.add_column("expected", width=20)
        for row in claims:
            claim = Text.assemble((row["statement"], ""), (f"\n{row['whose']}", "dim"))
            grid.add_row(_verdict(row), claim, _measured(row), row["relation"])
        console.print(grid, highlight=False)
    else:
        for row in claims:
            console.print(_verdict(row), Text(_name(row), style="bold"))
            lines = Text.assemble(
                f"{row['statement']}\n",
                (f"{row['whose']}\n", "dim"),
                f"measured {_measured(row)}\nexpected {row['relation']}",
            )
            console.print(Padding(lines, (0, 0, 0, 2)))
    _print_reasons(claims, console)
    counts = {v: sum(row["verdict"] == v for row in claims) for v in _COLOURS}
    parts = [f"{n} {v.replace('_', ' ')}" for v, n in counts.items() if n]
    seconds = table.provenance["seconds"]
    console.print(
        f"{len(claims)} claims: {', '.join(parts)}; {seconds:.0f} s", highlight=False
    )


def _print_reasons(claims: list[dict[str, Any]], console: Console) -> None:
    """Say why, where the answer is not a plain yes."""
    for row in claims:
        if row["verdict"] != "reproduced":
            console.print(f"{_name(row)}: {row['reason']}", highlight=False)


def _verdict(row: dict[str, Any]) -> Any:
    from rich.text import Text

    word = str(row["verdict"])
    return Text(word.replace("_", " "), style=_COLOURS[word])


def _name(row: dict[str, Any]) -> str:
    return str(row["subject"]).partition(".")[2]


def _measured(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "nothing"
    half = (row["upper"] - row["lower"]) / 2
    # Two digits of the uncertainty; all of the value where there is none.
    if not 0.0 < half < 1e6:
        return f"{row['value']:.4g}"
    digits = max(0, 1 - math.floor(math.log10(half)))
    ends = [row[k] for k in ("value", "lower", "upper")]
    form = f".{digits}f"
    if digits > _DECIMALS:
        top = math.floor(math.log10(max(map(abs, ends))))
        form = f".{max(1, top + digits)}e"
    value, low, high = (f"{x:{form}}" for x in ends)
    return f"{value} [{low}, {high}]"


class _ProgressBar:
    """Part, steps done, time left."""

    def __init__(self, console: Console, *, hidden: bool) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=hidden or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)  # type: ignore[arg-type]

    def update(self, p: Progress) -> None:
        """Show where the run stands."""
        self._bar.update(
            self._task,
            description=p.part or "done",
            total=p.num_steps,
            completed=p.num_done,
        )
