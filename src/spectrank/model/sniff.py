"""What a file that cannot be read seems to be, for the way out in the message."""

from __future__ import annotations

from pathlib import Path

_HINTS = (
    (
        b"version https://git-lfs",
        "it is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    (b"GGUF", "it looks like GGUF: name it .gguf"),
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
    if start.startswith(b"PK\x03\x04") and path.suffix == ".safetensors":
        return "it looks like a zip archive, as torch.save writes: name it .pt"
    if len(start) > 9 and start[8:9] == b"{" and path.suffix != ".safetensors":
        return "it looks like a safetensors file: name it .safetensors"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "it looks like plain text: check what was downloaded"
    return "it is cut short, damaged or of another format: fetch it again"
