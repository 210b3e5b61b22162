"""What a file that cannot be read seems to be, for the way out in the message."""

from __future__ import annotations

from pathlib import Path

_HINTS = (
    (
        b"version https://git-lfs",
        "it is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    (b"\x89HDF\r\n", "it looks like HDF5, which is not read"),
    (b"<!DOCTYPE", "it is a web page: the download went wrong, fetch it again"),
    (b"<html", "it is a web page: the download went wrong, fetch it again"),
)


def content_hint(path: Path) -> str:
    """Way out, judged from size and first bytes.

    Args:
        path: A file; unreadable ones get the general advice.

    Returns:
        Clause without a full stop.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return "check that it exists and may be read"
    if not start:
        return "it is empty: fetch it again"
    for magic, hint in _HINTS:
        if start.startswith(magic):
            return hint
    if named := _other_name(start, path.suffix):
        return named
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "it looks like plain text: check what was downloaded"
    return "it is cut short, damaged or of another format: fetch it again"


def _other_name(start: bytes, suffix: str) -> str | None:
    """Way out for a file of another format than its name says; None if it is not."""
    # Not at the top: there, hints are asked for.
    from spectrank.model.paths import PICKLE_SUFFIXES

    if start.startswith(b"GGUF") and suffix != ".gguf":
        return "it looks like GGUF: name it .gguf"
    # Before pickles: the length of a header may begin as one of these does.
    if len(start) > 9 and start[8:9] == b"{" and suffix != ".safetensors":
        return "it looks like a safetensors file: name it .safetensors"
    if suffix in PICKLE_SUFFIXES:
        return None
    if start.startswith(b"PK\x03\x04"):
        return "it looks like a zip archive, as torch.save writes: name it .pt"
    if start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "it looks like a pickle, as torch.save once wrote: name it .pt"
    return None
