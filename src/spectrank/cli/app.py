"""``spectrank``: entry point, exit codes and the way errors are told.

Exit codes: 0 done, 1 a gate failed, 2 unusable input or options, 70 a defect of ours,
130 interrupted.
"""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from spectrank.cli.compare import compare_command
from spectrank.cli.init_report import init_report_command
from spectrank.cli.metrics import metrics_command
from spectrank.cli.reproduce import reproduce_command
from spectrank.cli.scan import scan_command
from spectrank.cli.trend import trend_command
from spectrank.cli.views import views_command
from spectrank.errors import SpectrankError, SpectrankWarning

DEFECT = 70
"""Exit code of an error that nobody foresaw: EX_SOFTWARE of sysexits.h.

Python's own is 1, which would pass for the verdict of a gate.
"""

app = typer.Typer(
    name="spectrank",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=(
        "Measure the rank of the layers of a deep network, with an error on each "
        "number. Exit codes of every command: 0 done, 1 a gate failed, 2 unusable "
        "input or options, 70 a defect of spectrank, 130 interrupted."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    "scan",
    help=(
        "Measure every weight matrix of a checkpoint. Exit codes: 0 done, 1 a gate "
        "failed, 2 unusable input or options."
    ),
)(scan_command)
app.command(
    "compare",
    help=(
        "Compare two checkpoints matrix by matrix. Exit codes: 0 done, 1 a gate "
        "failed, 2 unusable input or options."
    ),
)(compare_command)
app.command(
    "init-report",
    help=(
        "Say how far each layer of a checkpoint is from He, orthogonal and noise of "
        "its own stable rank. Exit codes: 0 done, whatever the verdicts; 2 unusable "
        "input or options."
    ),
)(init_report_command)
app.command(
    "trend",
    help=(
        "Measure the checkpoints of a run, step by step. Exit codes: 0 done, 2 "
        "unusable input or options."
    ),
)(trend_command)
app.command("metrics")(metrics_command)
app.command("views")(views_command)
app.command(
    "reproduce",
    help=(
        "Put the claims of a paper to the test. Exit codes: 0 done, whatever the "
        "verdicts; 1 with --strict unless all are reproduced; 2 unusable options or "
        "no data."
    ),
)(reproduce_command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spectrank {version('spectrank')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    del show_version


def main() -> None:
    """Run the command line; a deliberate error is one message and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character shows a replacement instead.
            stream.reconfigure(errors="replace")
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", SpectrankWarning)
    try:
        app()
    except SpectrankError as error:
        _fail(str(error), 2)
    except OSError as error:
        # Most often of the standard output, which is written without a check first.
        what = "the output" if error.filename is None else repr(error.filename)
        _fail(
            "files and folders must be there and have room and permissions, got "
            f"{what} that cannot be used ({error.strerror or error}); free space, or "
            "choose another path",
            2,
        )
    except Exception as error:
        traceback.print_exc()
        _fail(
            "a mistake in input or options is told with exit code 2, got an error that "
            f"nobody foresaw ({type(error).__name__}): a defect of spectrank; report "
            "the lines above and the output of `spectrank --version`",
            DEFECT,
        )


def _fail(message: str, code: int) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    sys.exit(code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    del filename, lineno, file, line
    if issubclass(category, SpectrankWarning):
        typer.secho(f"warning: {message}", fg="yellow", err=True)
