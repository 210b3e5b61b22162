"""Whether a file that another file names lies inside the folder of that file."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath


def is_inside(folder: Path, file: str) -> bool:
    """Whether a relative name stays inside a folder, links followed.

    Args:
        folder: Of the file that names it.
        file: The name, as written there.

    Returns:
        False for absolute names, drives, parents and links that lead outside.
    """
    posix, windows = PurePosixPath(file), PureWindowsPath(file)
    if (
        not posix.parts
        or "\0" in file
        or windows.anchor  # a drive, a share or a leading slash of either kind
        or ".." in {*posix.parts, *windows.parts}
    ):
        return False
    try:
        target = Path(os.path.realpath(folder / file))
        return any(target.is_relative_to(root) for root in _roots(folder))
    except (OSError, ValueError):
        return False


def _roots(folder: Path) -> list[Path]:
    # huggingface_hub stores models--x/snapshots/revision/file as a link to
    # models--x/blobs/hash: refusing that would refuse every cached model.
    real = Path(os.path.realpath(folder))
    blobs = [
        parent.parent / "blobs"
        for parent in real.parents
        if parent.name == "snapshots" and parent.parent.name.startswith("models--")
    ]
    return [real, *blobs]
