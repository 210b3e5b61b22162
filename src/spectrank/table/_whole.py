"""Files written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_whole(files: Mapping[Path, bytes], *, sync: bool = True) -> None:
    """Write files beside their targets, then move them over these.

    A reader never sees half of a file, and a kill leaves the old one. Several files
    move one after the other: a set cut in between has old and new members.

    Args:
        files: Target in an existing folder to its content.
        sync: Whether the bytes are on the disk before a file moves; without it, a
            machine that fails may leave a file of another content.

    Raises:
        OSError: A file cannot be written; no target has changed then, unless moving
            failed in between.
    """  # noqa: DOC502 - raised by the file system
    token = secrets.token_hex(4)
    pending = {path.with_name(f".{path.name}.{token}.tmp"): path for path in files}
    try:
        for temporary, path in pending.items():
            with temporary.open("xb") as stream:
                stream.write(files[path])
                if sync:
                    stream.flush()
                    os.fsync(stream.fileno())
        for temporary, path in pending.items():
            temporary.replace(path)
    finally:
        for temporary in pending:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
