"""The command line in this process: a new one costs seconds."""

import contextlib
import io
import os
import sys
import warnings
from dataclasses import dataclass
from unittest import mock

from spectrank.cli.app import main


@dataclass(frozen=True)
class Result:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments, cwd=None, columns=100):
    """Run ``spectrank`` with these arguments in a terminal of so many columns."""
    out, err = io.StringIO(), io.StringIO()
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1"}
    code = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        line = ["spectrank", *map(str, arguments)]
        stack.enter_context(mock.patch.object(sys, "argv", line))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        if cwd is not None:
            stack.enter_context(contextlib.chdir(cwd))
        try:
            main()
        except SystemExit as left:
            code = left.code
    return Result(code or 0, out.getvalue(), err.getvalue())
