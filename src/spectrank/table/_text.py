"""Numbers, names and headers as short text for the eye.

Lengths are terminal cells (a CJK character takes two), never code points.
"""

import math
import re
from collections.abc import Sequence

from rich.cells import cell_len

WIDE_ENCLOSURE = 1e-3
"""Relative width above which an enclosure is shown beside its number."""


def number_text(value: float, *, whole: bool = False) -> str:
    """A number with four significant digits.

    Args:
        value: Any float.
        whole: Write it as an integer, because its whole column is integral.

    Returns:
        Such as ``30.50``, ``1.234e-8``, ``nan``, ``-inf`` or ``384``.
    """
    if not math.isfinite(value):
        return str(value)
    if whole or value == 0:
        return f"{value:.0f}"
    return _tidy(f"{value:#.4g}")


def enclosure_text(value: float, lower: float | None, upper: float | None) -> str:
    """The mark of a wide enclosure, to stand behind its number.

    Args:
        value: The number.
        lower: Lower end of the enclosure, if there is one.
        upper: Upper end of the enclosure, if there is one.

    Returns:
        `` ±0.21``, the distance to the farther end, or nothing where the enclosure
        is absent or narrow.
    """
    if lower is None or upper is None or not math.isfinite(value):
        return ""
    # `not >`: a NaN end is no enclosure.
    if not upper - lower > WIDE_ENCLOSURE * abs(value):
        return ""
    return f" ±{_tidy(f'{max(upper - value, value - lower):.2g}')}"


def printable(text: str) -> str:
    """Text with control characters escaped, so that a name cannot steer a terminal.

    Args:
        text: A name from a file.

    Returns:
        The text on one line.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def stacked(label: str, width: int) -> str:
    """A metric's name broken at its underscores into lines of a narrow header.

    Args:
        label: Such as ``numerical_rank[rtol=1e-3]``.
        width: Width that the column has anyway.

    Returns:
        Lines no wider than the width or the longest word.
    """
    words = printable(label).replace("[", "_[").split("_")
    limit = max(width, *map(cell_len, words))
    lines = [words[0]]
    for word in words[1:]:
        joined = f"{lines[-1]} {word}"
        if cell_len(joined) <= limit:
            lines[-1] = joined
        else:
            lines.append(word)
    return "\n".join(lines)


def shortened(name: str, width: int) -> str:
    """A dotted name within a width: its tail and its numbers stay, the middle goes.

    ``encoder.layer.11.attention.self.query.weight`` in 28 cells is
    ``…layer.11…self.query.weight``: the number is what tells layers apart.

    Args:
        name: The name.
        width: Cells available, at least 1.

    Returns:
        The name, with ``…`` for what was left out.
    """
    if cell_len(name) <= width:
        return name
    # The dots of a view in brackets, ``in_proj_weight[qkv.q]``, join no parts.
    parts = re.split(r"\.(?![^\[]*\])", name)
    kept = {len(parts) - 1} | {i for i, part in enumerate(parts) if part.isdigit()}
    if cell_len(_with_gaps(parts, kept)) > width:
        return _cut(name, width)
    for i in reversed(range(len(parts))):
        if cell_len(_with_gaps(parts, kept | {i})) <= width:
            kept.add(i)
    return _with_gaps(parts, kept)


def name_width(names: Sequence[str], least: int, most: int) -> int:
    """Smallest width at which shortened names still differ.

    Args:
        names: The names, all different.
        least: Width to start from.
        most: Width not to exceed.

    Returns:
        That width, or ``most`` where even that does not tell them apart.
    """
    for width in range(least, most):
        if len({shortened(name, width) for name in names}) == len(set(names)):
            return width
    return most


def _tidy(text: str) -> str:
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa.rstrip(".")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _with_gaps(parts: Sequence[str], kept: set[int]) -> str:
    text = ""
    for i, part in enumerate(parts):
        if i in kept:
            joint = "." if i and i - 1 in kept else "…" if i else ""
            text += joint + part
    return text


def _cut(name: str, width: int) -> str:
    tail = ""
    for character in reversed(name):
        if cell_len(character + tail) > width - 1:
            break
        tail = character + tail
    return f"…{tail}"
