"""Optuna's storage: opened quietly, shared by processes, cleared of dead trials."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from spectrank.errors import DomainError
from spectrank.extras import need

# Seconds for which a writer waits for another to let go of the SQLite file.
_LOCK_TIMEOUT = 120.0
# Two processes that make the tables at once: the later one tries again.
_ATTEMPTS = 8
# A trial is claimed milliseconds after it was asked for; one that still is not after
# so many seconds was asked for by a process that was killed in between.
_UNCLAIMED = 60.0
_THIS_IMPORT = uuid.uuid4().hex


@final
@dataclass(frozen=True)
class Storage:
    """An open storage.

    Attributes:
        optuna: Optuna's storage object.
        is_ours: Whether to let go of it at the end.
    """

    optuna: Any
    is_ours: bool

    def close(self) -> None:
        """Let go of files and connections that were opened here."""
        if self.is_ours and hasattr(self.optuna, "engine"):
            self.optuna.remove_session()
            self.optuna.engine.dispose()


def open_storage(storage: Any) -> Storage:
    """Open a storage.

    Args:
        storage: Path of an SQLite file, an Optuna storage URL or storage object, or
            None for memory.

    Returns:
        The storage.

    Raises:
        DomainError: It cannot be opened.
    """
    optuna = need("optuna", "tuning learning rates")
    if storage is None:
        return Storage(optuna.storages.InMemoryStorage(), is_ours=True)
    if not isinstance(storage, str | Path):
        return Storage(storage, is_ours=False)
    url = str(storage)
    if "://" not in url:
        url = f"sqlite:///{Path(url).absolute()}"
    try:
        return Storage(_connected(optuna, url, attempts=_ATTEMPTS), is_ours=True)
    except Exception as error:
        # SQLAlchemy, its drivers and Optuna each have errors of their own.
        raise DomainError(
            "a study is kept in an SQLite file or at an Optuna storage URL, "
            f"{storage} cannot be opened ({type(error).__name__}: {error}); check "
            "the path and that the database's driver is installed"
        ) from error


def _connected(optuna: Any, url: str, *, attempts: int) -> Any:
    timeout = {"connect_args": {"timeout": _LOCK_TIMEOUT}}
    try:
        with quiet(optuna):
            return optuna.storages.RDBStorage(
                url, engine_kwargs=timeout if url.startswith("sqlite") else {}
            )
    except Exception as error:
        if attempts == 1 or not any(w in str(error) for w in ("exists", "locked")):
            raise
    time.sleep(0.05 * 2 ** (_ATTEMPTS - attempts))
    return _connected(optuna, url, attempts=attempts - 1)


@contextlib.contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna's notes on new studies off the terminal, then restore its level.

    Args:
        optuna: The module.

    Yields:
        Nothing.
    """
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def claim_mark() -> dict[str, Any]:
    """Return what tells this process from all others, to be kept with its trials.

    Returns:
        Plain JSON.
    """
    return {
        "import": _THIS_IMPORT,
        "host": platform.node(),
        "pid": os.getpid(),
        "born": _born(os.getpid()),
        "asked": time.time(),
    }


def is_mine(mark: dict[str, Any] | None) -> bool:
    """Return whether a mark was made by this process.

    Args:
        mark: As `claim_mark` made it, or None.

    Returns:
        Whether it was; a fork is another process.
    """
    return mark is not None and (mark["import"], mark["pid"]) == (
        _THIS_IMPORT,
        os.getpid(),
    )


def is_stale(mark: dict[str, Any] | None, age: float, stale_after: float) -> bool:
    """Return whether the process that holds a trial is gone.

    On this machine that is known; of another machine, and where there are no POSIX
    signals, it is assumed after a time.

    Args:
        mark: As `claim_mark` made it; None where the trial was never claimed.
        age: Seconds since the trial was asked for.
        stale_after: Seconds after which another machine's trial is given up.

    Returns:
        Whether it is.
    """
    if mark is None:
        return age > min(_UNCLAIMED, stale_after)
    if is_mine(mark):
        return False
    if mark["host"] != platform.node() or os.name != "posix":
        return age > stale_after
    return not _is_alive(mark["pid"], mark["born"])


def _is_alive(pid: int, born: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # The number may be that of another process by now, or of one that only waits to
    # be reaped.
    return born is None or _born(pid) == born


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks; None if unknown or not running."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    # The name in parentheses may hold anything; fields are counted after it.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
