"""The numbers behind static figures of what changes, and of what theory says."""

import math
from collections.abc import Mapping
from typing import Any

from spectrank.errors import TableError
from spectrank.report._curves import MOST_GROUPS, Drawn, Numbers, colour_roles
from spectrank.report._slices import AFTER, BEFORE


def sides(drawn: Drawn) -> tuple[list[str], Numbers, Numbers]:
    """A metric before and after.

    Args:
        drawn: What is shown.

    Returns:
        Short names, numbers before, numbers after.

    Raises:
        TableError: The table is no comparison.
    """
    if drawn.data["course"] != "comparison":
        raise TableError(
            "a comparison has runs 'before' and 'after', the table has none; make one "
            "with spectrank.compare(old, new)"
        )
    found: dict[int, dict[Any, int]] = {}
    for i, thing in enumerate(drawn.data["thing_of"]):
        found.setdefault(thing, {})[drawn.data["matrices"][i]["run"]] = i
    both = [of for of in found.values() if {BEFORE, AFTER} <= of.keys()]
    names = [str(drawn.data["matrices"][of[AFTER]]["short"]) for of in both]
    before, after = ([drawn.value(of[run]) for of in both] for run in (BEFORE, AFTER))
    return names, before, after


def course_lines(drawn: Drawn) -> list[tuple[str, int, list[int], list[float]]]:
    """A metric over the steps, a line for each matrix and run.

    Args:
        drawn: What is shown.

    Returns:
        Role, number of its colour, steps and numbers of each line.

    Raises:
        TableError: No matrix has several steps.
    """
    matrices = drawn.data["matrices"]
    lines: dict[tuple[int, Any], list[tuple[int, float]]] = {}
    roles = colour_roles(drawn)
    role_of: dict[tuple[int, Any], str] = {}
    for i, thing in enumerate(drawn.data["thing_of"]):
        value, step = drawn.value(i), matrices[i]["step"]
        if value is not None and step is not None:
            key = (thing, matrices[i]["run"])
            lines.setdefault(key, []).append((step, value))
            role_of[key] = str(matrices[i]["role"])
    if not any(len(line) > 1 for line in lines.values()):
        raise TableError(
            "a trend has several steps, the table has none; make one with "
            "spectrank.scan_steps(folder)"
        )
    found = []
    for key, line in lines.items():
        role = role_of[key] if role_of[key] in roles else "others"
        group = roles.index(role) if role in roles else MOST_GROUPS
        ordered = sorted(line)
        found.append((role, group, [s for s, _ in ordered], [y for _, y in ordered]))
    return found


def noise_edge(drawn: Drawn, i: int) -> float | None:
    """Edge of the noise among the singular values, if it was measured.

    Args:
        drawn: What is shown.
        i: The matrix.

    Returns:
        The metric ``mp_edge``.
    """
    return drawn.named("mp_edge", i)


def power_law(drawn: Drawn, i: int) -> tuple[list[float], list[float]] | None:
    r"""The fitted tail :math:`\sigma_k = \sqrt{x_{min}} (k/n)^{-1/(2(\alpha-1))}`.

    Args:
        drawn: What is shown.
        i: The matrix.

    Returns:
        Index k from 1 to n and singular values; None where the table lacks ``alpha``,
        ``xmin`` or ``num_tail``.
    """
    alpha, start, count = (
        drawn.named(metric, i) for metric in ("alpha", "xmin", "num_tail")
    )
    if alpha is None or start is None or count is None or alpha <= 1.0 or count < 2:
        return None
    index = [count ** (j / 39) for j in range(40)]
    power = -1.0 / (2.0 * (alpha - 1.0))
    return index, [math.sqrt(start) * (k / count) ** power for k in index]


def law_courses(
    data: Mapping[str, Any] | None,
) -> list[tuple[str, list[int], list[float], list[float], list[tuple[int, float]]]]:
    """Residual of each watched law against what rounding may add.

    Args:
        data: Of the laws section, or None.

    Returns:
        Name, steps, residuals, bounds, and the points where it is broken.

    Raises:
        TableError: No law was watched.
    """
    found = []
    for of in data["families"] if data else ():
        columns = (of["steps"], of["drift"], of["explained"], of["bound"])
        rows = [
            (step, abs(drift - explained), bound, word)
            for step, drift, explained, bound, word in zip(
                *columns, of["verdicts"], strict=True
            )
            if None not in {drift, explained, bound}
        ]
        if rows:
            steps, residual, bounds, _ = map(list, zip(*rows, strict=True))
            broken = [(step, y) for step, y, _, word in rows if word == "broken"]
            found.append((of["name"], steps, residual, bounds, broken))
    if not found:
        raise TableError(
            "a figure of laws needs laws that were watched, the table has none; "
            "see spectrank.invariance.Watch"
        )
    return found
