"""Figures for papers and slides: what the pages draw, by matplotlib.

No figure is made through ``pyplot``, so nothing global is changed and nothing waits to
be closed. Colours are those of the pages on white.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from spectrank.errors import ArgumentTypeError, TableError, UnknownNameError
from spectrank.report._courses import (
    course_lines,
    law_courses,
    noise_edge,
    power_law,
    sides,
)
from spectrank.report._curves import Drawn, chosen, depth_groups, numbers, ranked
from spectrank.report._data import scan_rows
from spectrank.report._laws import laws
from spectrank.report._payload import payload
from spectrank.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["bars", "heat", "depth", "spectrum", "comparison", "trend", "laws"]
"""What `figure` can draw."""

COLOURS = (
    *("#2f6ca8", "#d0782c", "#3e8e68", "#a7456d", "#7a68b3", "#b1962b", "#3a9bb0"),
    "#808892",
)
_INK, _MUTED, _GHOST, _WARN = "#191d22", "#56606b", "#c9d0d8", "#9a3412"
_PALETTE = ("#e9eff6", "#a9c5e0", "#4683bb", "#0c2f59")
_MOST_LABELS = 60


def figure(
    table: Table,
    kind: Kind,
    *,
    metric: str | None = None,
    subject: str | None = None,
    size: tuple[float, float] = (7.0, 3.6),
) -> "Figure":
    """A static figure of a table, to be saved in any format matplotlib writes.

    ``bars``: a metric of every matrix in model order. ``heat``: every metric of every
    matrix, coloured by rank within the metric. ``depth``: a metric through the depth,
    a line for each role that repeats. ``spectrum``: singular values of one matrix with
    the edge of the noise and the power law where the table has them. ``comparison``: a
    metric before and after. ``trend``: a metric over the steps. ``laws``: how far each
    watched law drifted from what the steps explain, against what rounding may add.
    Of a table with several runs or steps the first four show what its page shows first:
    the side after, or the last step.

    Args:
        table: Result of a scan, a comparison, a trend or a watch.
        kind: What to draw.
        metric: Name of the metric; ``stable_rank`` where it was measured, else the
            first, by default.
        subject: Name of the matrix for ``spectrum``; by default the first with values.
        size: Width and height in inches.

    Returns:
        A figure; ``figure.savefig("page.pdf")`` writes it.

    Raises:
        ArgumentTypeError: It is no Table.
        UnknownNameError: The kind, the metric or the matrix is not known.
        TableError: matplotlib is not installed, or the table has nothing to draw.

    Example:
        >>> import torch, spectrank as sr
        >>> table = sr.scan({"w": torch.eye(3)}, metrics="stable_rank")
        >>> sr.report.figure(table, "bars").axes[0].get_ylabel()
        'stable rank'
    """  # noqa: DOC502 - raised by the functions called
    if not isinstance(table, Table):
        raise ArgumentTypeError(
            f"a figure shows a Table, got {type(table).__name__}; make one first, "
            "e.g. spectrank.scan(model)"
        )
    if kind not in get_args(Kind):
        raise UnknownNameError(
            f"a figure is one of {', '.join(get_args(Kind))}, got {kind!r}; "
            "use one of these words"
        )
    drawn = _measured(table, metric) if kind != "laws" else None
    found = laws(table.frame) if kind == "laws" else None
    canvas = _canvas(size)
    axes = canvas.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_MUTED, labelsize=8)
    if drawn is None:
        _draw_laws(axes, found[1] if found else None)
    elif kind == "spectrum":
        _draw_spectrum(axes, drawn, subject)
    else:
        _DRAWERS[kind](axes, drawn)
    return canvas


def _canvas(size: tuple[float, float]) -> "Figure":
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise TableError(
            "a static figure is drawn by matplotlib, which is not installed; "
            "pip install 'spectrank[plot]'"
        ) from error
    canvas: Figure = module.Figure(figsize=size, layout="constrained")
    return canvas


def _measured(table: Table, metric: str | None) -> Drawn:
    data = payload(scan_rows(table.frame))
    if not data["plain"]:
        raise TableError(
            "a figure needs measurements, the table has none; draw kind='laws' of a "
            "table of laws, or scan a model"
        )
    return chosen(data, metric)


def _name_axis(axes: "Axes", names: Sequence[str]) -> None:
    every = -(-len(names) // _MOST_LABELS)
    places = range(0, len(names), every)
    axes.set_xticks(list(places), [names[at] for at in places], rotation=90, fontsize=6)
    axes.set_xlim(-0.7, len(names) - 0.3)


def _legend(axes: "Axes", *, most: int = 10, least: int = 1) -> None:
    """What the colours mean, above the axes, where nothing is drawn."""
    handles, _ = axes.get_legend_handles_labels()
    if least <= len(handles) <= most:
        above: Mapping[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        axes.legend(fontsize=7, frameon=False, ncols=4, **above)


def _draw_bars(axes: "Axes", drawn: Drawn) -> None:
    for name, group, members in depth_groups(drawn, least=1):
        known = [(at, y) for at, y in numbers(drawn, members) if y is not None]
        axes.bar(
            [at for at, _ in known],
            [y for _, y in known],
            color=COLOURS[min(group, len(COLOURS) - 1)],
            label=name,
        )
    axes.set_ylabel(drawn.label)
    _name_axis(axes, drawn.names)
    _legend(axes, least=2)


def _draw_depth(axes: "Axes", drawn: Drawn) -> None:
    for name, group, members in depth_groups(drawn, least=2):
        known = [(at, y) for at, y in numbers(drawn, members) if y is not None]
        axes.plot(
            [at for at, _ in known],
            [y for _, y in known],
            "o-",
            color=COLOURS[min(group, len(COLOURS) - 1)],
            label=name,
            markersize=3,
        )
    axes.set_ylabel(drawn.label)
    axes.set_xlabel("place in the model")
    axes.set_xlim(-0.7, len(drawn.shown) - 0.3)
    _legend(axes)


def _draw_heat(axes: "Axes", drawn: Drawn) -> None:
    colors = importlib.import_module("matplotlib.colors")
    labels, rows = ranked(drawn)
    scale = colors.LinearSegmentedColormap.from_list("ranks", _PALETTE)
    nothing = float("nan")
    image = [[nothing if x is None else x for x in row] for row in rows]
    axes.imshow(image, aspect="auto", cmap=scale, vmin=0.0, vmax=1.0)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    _name_axis(axes, drawn.names)


def _draw_comparison(axes: "Axes", drawn: Drawn) -> None:
    names, before, after = sides(drawn)
    places = range(len(names))
    pairs = [(a, b) for a, b in zip(before, after, strict=True)]
    for at, (a, b) in enumerate(pairs):
        if a is not None and b is not None:
            axes.plot([at, at], [a, b], color=_GHOST, zorder=1)
    shared: Mapping[str, Any] = {"s": 16, "zorder": 2}
    nothing = float("nan")
    ys = [[nothing if y is None else y for y in side] for side in (before, after)]
    axes.scatter(
        places,
        ys[0],
        facecolors="none",
        edgecolors=COLOURS[1],
        label="before",
        **shared,
    )
    axes.scatter(places, ys[1], color=COLOURS[0], label="after", **shared)
    axes.set_ylabel(drawn.label)
    _name_axis(axes, names)
    _legend(axes)


def _draw_trend(axes: "Axes", drawn: Drawn) -> None:
    told = set()
    for role, group, steps, values in course_lines(drawn):
        axes.plot(
            steps,
            values,
            color=COLOURS[min(group, len(COLOURS) - 1)],
            linewidth=1.0,
            label=None if role in told else role,
        )
        told.add(role)
    axes.set_xlabel("step")
    axes.set_ylabel(drawn.label)
    _legend(axes, least=2)


def _draw_spectrum(axes: "Axes", drawn: Drawn, subject: str | None) -> None:
    at, index, values = drawn.spectrum(subject)
    axes.loglog(index, values, color=COLOURS[0], label="singular values")
    if (twins := drawn.twins(at)) is not None:
        axes.loglog(*twins, color=COLOURS[2], linestyle=":", label="random twins")
    if (edge := noise_edge(drawn, at)) is not None:
        axes.axhline(edge, color=COLOURS[1], linestyle="--", label="edge of the noise")
    if (law := power_law(drawn, at)) is not None:
        axes.loglog(*law, color=COLOURS[3], linestyle="-.", label="power law")
    axes.set_xlabel("index")
    axes.set_ylabel("singular value")
    _legend(axes)
    name = str(drawn.data["matrices"][at]["name"])
    axes.annotate(name, (0.01, 0.02), xycoords="axes fraction", fontsize=8, color=_INK)


def _draw_laws(axes: "Axes", data: Mapping[str, Any] | None) -> None:
    courses = law_courses(data)
    for number, (name, steps, residual, bound, broken) in enumerate(courses):
        tone = COLOURS[number % (len(COLOURS) - 1)]
        axes.plot(steps, residual, color=tone, linewidth=1.2, label=name)
        axes.plot(steps, bound, color=tone, linewidth=0.8, linestyle=":")
        axes.scatter(
            [step for step, _ in broken],
            [y for _, y in broken],
            marker="x",
            color=_WARN,
            zorder=3,
        )
    # Nothing is drawn where nothing is left over; a clipped zero would be a cliff.
    axes.set_yscale("log", nonpositive="mask")
    if left := [y for _, _, residual, *_ in courses for y in residual if y > 0.0]:
        axes.set_ylim(bottom=0.3 * min(left))
    axes.set_xlabel("step")
    axes.set_ylabel("|drift - explained|, rounding (dotted)")
    _legend(axes)


_DRAWERS: Mapping[str, Callable[["Axes", Drawn], None]] = {
    "bars": _draw_bars,
    "heat": _draw_heat,
    "depth": _draw_depth,
    "comparison": _draw_comparison,
    "trend": _draw_trend,
}
