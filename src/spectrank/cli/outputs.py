"""What commands share: targets checked before the work, outputs, names that fit."""

from __future__ import annotations

import errno
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from spectrank.scanning import Gate
    from spectrank.table import Table


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


@contextmanager
def interruptible(left: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C during the work is one message and exit code 130.

    Args:
        left: Says what is left of the work, when it is interrupted.

    Yields:
        Nothing.

    Raises:
        Exit: After Ctrl-C.
    """
    import typer

    try:
        yield
    except KeyboardInterrupt:
        typer.secho(f"interrupted: {left()}", fg="red", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def counting(
    console: Console, *, quiet: bool
) -> Iterator[Callable[[object, int, int], None]]:
    """A line that says what is being done and how much of it is left.

    Args:
        console: Where it stands while the work goes on.
        quiet: No line.

    Yields:
        Called with a name, how many are done and how many there are.
    """
    from rich.text import Text

    with interruptible(lambda: "nothing was written"), console.status("") as status:
        if quiet or not console.is_terminal:
            status.stop()

        def show(name: object, done: int, count: int) -> None:
            # As text: names have brackets, which are no markup.
            status.update(Text(plain(f"{done + 1}/{count} {name}")))

        yield show


def exit_if_failed(gates: Sequence[Gate], table: Table) -> None:
    """Say which gates failed on which matrices.

    Args:
        gates: Conditions.
        table: What they look at.

    Raises:
        Exit: With code 1 if a gate failed.
    """
    import typer

    lines = [
        f"gate {gate.text}: {line}" for gate in gates for line in gate.failures(table)
    ]
    for line in lines:
        typer.secho(line, fg="red", err=True)
    if lines:
        raise typer.Exit(1)


def check_targets(
    out: Sequence[Path], html: Path | None, *, source: str | None = None
) -> None:
    """Refuse what cannot be written, or would overwrite the source or each other.

    Args:
        out: Tables to write.
        html: Page to write.
        source: What is read, if that is a path.

    Raises:
        TableError: A target is refused.
    """
    from spectrank.errors import TableError
    from spectrank.table import check_target

    for path in out:
        check_target(path)
        _check_place(path)
    if html is not None and (
        html.suffix.lower() not in {".html", ".htm"}
        or not html.absolute().parent.is_dir()
        or html.is_dir()
    ):
        raise TableError(
            f"a page is an .html file in an existing folder, got {html}; "
            "create the folder or choose another path"
        )
    if html is not None:
        _check_place(html)
    # Path.resolve raises at a loop of links; this goes as far as there is a way.
    targets = [realpath(path) for path in [*out, *([html] if html else [])]]
    clash = source is not None and realpath(source) in targets
    if len(set(targets)) < len(targets) or clash:
        raise TableError(
            "each output is a file of its own and none is the source, got "
            f"{', '.join(targets)}; choose other names"
        )


def _check_place(path: Path) -> None:
    """Refuse a folder that takes no file, by trying: permissions do not tell all."""
    from tempfile import NamedTemporaryFile

    from spectrank.errors import TableError

    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        # As outputs are written: beside their place, then moved.
        with NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}."):
            return
    except OSError as error:
        raise TableError(
            f"an output is written into a writable folder, got {path} "
            f"({error.strerror or error}); choose another path"
        ) from error


def with_command(table: Table) -> Table:
    """Return the table with the command that made it in its provenance.

    Args:
        table: The result.

    Returns:
        A table of the same rows.
    """
    from spectrank.table import Table

    command = shlex.join(["spectrank", *sys.argv[1:]])
    return Table(table.frame, {**table.provenance, "command": command})


def write_outputs(
    table: Table,
    out: Sequence[Path],
    html: Path | None,
    errors: Console,
    *,
    quiet: bool,
) -> None:
    """Write tables and page, and say where.

    Args:
        table: The result.
        out: Tables to write.
        html: Page to write.
        errors: Console of the notes.
        quiet: No notes.
    """
    written = [path for target in out for path in table.write(target)]
    if html is not None:
        from spectrank.report import write_html

        written.append(write_html(table, html))
    if not quiet:
        for path in written:
            errors.print(f"wrote {path}", highlight=False, soft_wrap=True)


def parse_view(text: str) -> tuple[str, str]:
    """Read PATTERN=VIEW.

    Args:
        text: As given.

    Returns:
        Pattern and view.

    Raises:
        DomainError: It does not read so.
    """
    from spectrank.errors import DomainError

    # At the first: options of a view are written with '=' too.
    pattern, separator, name = text.partition("=")
    if not separator or not pattern or not name:
        raise DomainError(
            f"a view reads PATTERN=VIEW, got {text!r}; e.g. '*.c_fc.weight=linear'"
        )
    return pattern, name


def parse_views(texts: Sequence[str] | None) -> dict[str, str] | str | None:
    """Read the options ``--view``: PATTERN=VIEW each, or one VIEW for every tensor.

    Args:
        texts: As given; None for none.

    Returns:
        Pattern to view, or the view for every tensor that it fits.
    """
    from spectrank.model import LAYOUTS, VIEWS

    if not texts:
        return None
    name = texts[0].partition(":")[0]
    if len(texts) == 1 and (name in VIEWS or name in LAYOUTS):
        return texts[0]
    return dict(parse_view(text) for text in texts)


def matrix_names(keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What matrices are called: by their view too where one tensor holds several.

    Args:
        keys: Subject and view of each.

    Returns:
        Key to name, safe for a terminal.
    """
    found = list(dict.fromkeys(keys))
    views = Counter(subject for subject, _ in found)
    return {
        (subject, view): plain(f"{subject}[{view}]" if views[subject] > 1 else subject)
        for subject, view in found
    }


def plain(text: str) -> str:
    """Text of a file, such that it cannot steer a terminal.

    Args:
        text: A name or a reason.

    Returns:
        The text with escapes for what is not printable.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
