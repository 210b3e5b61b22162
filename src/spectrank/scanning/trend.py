"""`scan_steps`: the checkpoints of a run, measured one after the other."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from spectrank.errors import (
    ArgumentTypeError,
    CheckpointError,
    DomainError,
    SpectrankWarning,
)
from spectrank.model import Source, describe
from spectrank.model.paths import FORMAT_SUFFIXES, PICKLE_SUFFIXES
from spectrank.scanning.patterns import check_callback
from spectrank.scanning.provenance import InputHash
from spectrank.scanning.scan import check_options, scan
from spectrank.table import Table, as_path

# What counts, the surest first: epoch=3-step=400 is step 400.
_COUNTERS = ("step", "iter(?:ation)?", "checkpoint", "ckpt", "update", "epoch")
# In thousands or millions, as in step_5k; a decimal or an exponent is no count.
_NUMBER = r"s?[-_=. ]?(\d+)(?!\d)([kKmM]?)(?![a-zA-Z\d])(?!\.\d)"
_TIMES = {"": 1, "k": 1_000, "m": 1_000_000}
# Neither a decimal place nor an exponent nor what follows one: lr1e-3, loss=0.35; no
# size either: llama-7b.
_LAST = re.compile(
    r"(?<![\d.])(?<![eE]-)(?<![eE])(\d+)(?!\.?\d)(?![eE]-?\d)"
    r"(?![kKmMbB](?![a-zA-Z]))"
)

_WEIGHTS = PICKLE_SUFFIXES | FORMAT_SUFFIXES | {".safetensors"}


def scan_steps(
    source: str | Path | Mapping[int, Source],
    *,
    steps: str | None = None,
    progress: Callable[[int, int, int], None] | None = None,
    **scanning: Any,
) -> Table:
    """Measure every checkpoint of a run; the column ``step`` tells which.

    One checkpoint after the other, in the order of the steps. Files with the same
    bytes are measured once.

    Args:
        source: Folder with a file or a folder for each checkpoint, or a mapping of
            steps to sources.
        steps: Regular expression whose first group is the step in the name of a file
            or folder. By default the number behind ``step``, ``iter``, ``checkpoint``,
            ``ckpt``, ``update`` or ``epoch``, in this order, with k for thousands and
            M for millions, else the last one.
        progress: Called with the step, checkpoints done and checkpoints in all.
        **scanning: Options of `scan`.

    Returns:
        The tables of the checkpoints, stacked, each row with its ``step``; a
        checkpoint that cannot be read, or whose name has no step, is a row of kind
        ``skip``.

    Raises:
        ArgumentTypeError: If an argument is of another type.
        DomainError: If ``steps`` is no expression with a group, or there is no name
            to read it from.
        CheckpointError: If no checkpoint can be read.

    Example:
        >>> import torch, spectrank as sr
        >>> run = {0: {"w": torch.eye(3)}, 10: {"w": torch.ones(3, 3)}}
        >>> table = sr.scan_steps(run, metrics="stable_rank")
        >>> last = table.where(kind="measurement", step=10)
        >>> last.frame["value"].round(6).to_list()
        [1.0]
    """  # noqa: DOC502 - raised by the functions called
    if isinstance(scanning.get("metrics"), Iterator):
        # Each checkpoint goes through them.
        scanning["metrics"] = list(scanning["metrics"])
    check_options(scanning)
    check_callback(progress)
    _check_expression(source, steps)
    found: Mapping[int, Source] = (
        _checked_steps(source)
        if isinstance(source, Mapping)
        else find_steps(source, steps)
    )
    tables: list[Table] = []
    errors: list[CheckpointError] = []
    measured: dict[str, Table] = {}
    for done, (step, checkpoint) in enumerate(found.items()):
        if progress:
            progress(step, done, len(found))
        try:
            digest = InputHash(describe(checkpoint).files).result()
            table = measured.get(digest or "")
            if table is None:
                table = scan(checkpoint, **scanning)
            if digest is not None:
                measured[digest] = table
        except CheckpointError as error:
            errors.append(error)
            tables.append(_unread(step, error))
            continue
        tables.append(_at(step, table))
    if errors and len(errors) == len(found):
        raise errors[0]
    if not isinstance(source, Mapping):
        tables += [_left_out(path) for path in _without_step(source, found)]
    if errors:
        warnings.warn(
            f"{len(errors)} of {len(found)} checkpoints could not be read, first: "
            f"{errors[0]}",
            SpectrankWarning,
            stacklevel=2,
        )
    stacked = Table.concat(tables)
    trend = {"trend": list(found), "steps": steps or "behind a counter, else the last"}
    return Table(stacked.frame, {**stacked.provenance, **trend})


def find_steps(folder: str | Path, steps: str | None = None) -> dict[int, Path]:
    """Checkpoints of a folder by step, in their order.

    Args:
        folder: Holds weight files, or folders with weight files.
        steps: Regular expression whose first group is the step; None for the usual
            names.

    Returns:
        Step to path.

    Raises:
        ArgumentTypeError: If it is no path.
        CheckpointError: If there are none, or two have one step.
    """  # noqa: DOC502
    step_of = _step_of if steps is None else _reader(steps)
    path = as_path(folder, name="the folder of a run", example="runs/1")
    try:
        names = sorted(entry for entry in path.iterdir() if _is_checkpoint(entry))
    except OSError as error:
        raise CheckpointError(
            f"the checkpoints of a run lie in a folder, got {path} "
            f"({error.strerror or error}); use `scan` for one of them"
        ) from error
    found: dict[int, Path] = {}
    for entry in names:
        step = step_of(entry.stem if entry.is_file() else entry.name)
        if step is None:
            continue
        if step in found:
            raise CheckpointError(
                f"a step has one checkpoint, {found[step].name} and {entry.name} both "
                f"have step {step}; choose with steps, e.g. 'model_(\\d+)'"
            )
        found[step] = entry
    if not found:
        seen = ", ".join(entry.name for entry in names[:5]) or "none"
        raise CheckpointError(
            f"a run has checkpoints with a number in their names, {path} has weight "
            f"files and folders: {seen}; pass steps, or `scan` the folder"
        )
    return dict(sorted(found.items()))


def _step_of(name: str) -> int | None:
    """Step in a usual name: behind a counter, else the last whole number."""
    for counter in _COUNTERS:
        found = re.findall(counter + _NUMBER, name, re.IGNORECASE)
        if found:
            number, unit = found[-1]
            return int(number) * _TIMES[unit.lower()]
    whole = _LAST.findall(name)
    return int(whole[-1]) if whole else None


def _check_expression(source: object, steps: object) -> None:
    if steps is None:
        return
    if not isinstance(steps, str):
        raise ArgumentTypeError(
            f"steps is a regular expression, got {steps!r:.80} of type "
            f"{type(steps).__name__}; e.g. 'step_(\\d+)'"
        )
    if isinstance(source, Mapping):
        raise DomainError(
            "steps reads the names of files, the keys of a mapping are its steps, got "
            f"both, {steps!r} and a {type(source).__name__}; leave steps out"
        )


def _reader(steps: str) -> Callable[[str], int | None]:
    """Reader of a step by an expression of the user.

    Args:
        steps: Regular expression with a group.

    Returns:
        Name to step; None where it does not match.

    Raises:
        DomainError: If it is no expression with a group.
    """
    try:
        pattern = re.compile(steps)
    except re.error as error:
        raise DomainError(
            f"steps is a regular expression, got {steps!r} ({error}); "
            r"e.g. 'step_(\d+)'"
        ) from None
    if not pattern.groups:
        raise DomainError(
            "steps is a regular expression with a group for the number, got "
            f"{steps!r}; "
            r"e.g. 'step_(\d+)'"
        )

    def read(name: str) -> int | None:
        match = pattern.search(name)
        decimal = match is not None and str(match[1]).isdecimal()
        return int(match[1]) if match is not None and decimal else None

    return read


def _is_checkpoint(entry: Path) -> bool:
    if entry.is_file():
        return entry.suffix in _WEIGHTS
    return entry.is_dir() and any(file.suffix in _WEIGHTS for file in entry.iterdir())


def _checked_steps(source: Mapping[int, Source]) -> dict[int, Source]:
    for step in source:
        if not isinstance(step, int) or isinstance(step, bool):
            raise ArgumentTypeError(
                f"the keys of a run are its steps, whole numbers, got {step!r}; "
                "use `scan` for a single state dict"
            )
    if not source:
        raise CheckpointError(
            "a run has at least one checkpoint, got none; pass {step: source}"
        )
    return dict(sorted(source.items()))


def _at(step: int, table: Table) -> Table:
    frame = table.frame.with_columns(pl.lit(step, dtype=pl.Int64).alias("step"))
    return Table(frame, {**table.provenance, "step": step})


def _without_step(folder: str | Path, found: Mapping[int, Source]) -> list[Path]:
    used = set(found.values())
    entries = sorted(Path(folder).iterdir())
    return [entry for entry in entries if entry not in used and _is_checkpoint(entry)]


def _left_out(path: Path) -> Table:
    row = {
        "kind": "skip",
        "subject": path.name,
        "metric": "scan_steps",
        "status": "skipped",
        "reason": "its name has no step: give it one, or a pattern in steps",
    }
    return Table.from_rows([row])


def _unread(step: int, error: CheckpointError) -> Table:
    row = {
        "kind": "skip",
        "subject": f"step {step}",
        "metric": "scan_steps",
        "step": step,
        "status": "skipped",
        "reason": f"could not be read: {error}",
    }
    return Table.from_rows([row])
