"""The numbers behind static figures, from the same payload that the pages carry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from spectrank.errors import TableError, UnknownNameError

MOST_GROUPS = 7
"""Roles with a colour of their own."""

Numbers = list[float | None]


@final
@dataclass(frozen=True, eq=False)
class Drawn:
    """What a figure shows.

    Attributes:
        data: Payload of the table.
        column: Position of the metric.
        shown: Matrices of the slice on view, in model order.
    """

    data: Mapping[str, Any]
    column: int
    shown: Sequence[int]

    @property
    def label(self) -> str:
        """Name of the metric for people."""
        return str(self.data["metrics"][self.column]["label"])

    @property
    def names(self) -> list[str]:
        """Short names of the matrices on view."""
        return [str(self.data["matrices"][i]["short"]) for i in self.shown]

    def value(self, i: int, column: int | None = None) -> float | None:
        """The number of a matrix, None where there is no finite one.

        Args:
            i: The matrix.
            column: Position of the metric; that of the figure by default.

        Returns:
            The number.
        """
        cell = self.data["cells"][self.column if column is None else column][i]
        return None if cell is None else cell[0]

    def named(self, metric: str, i: int) -> float | None:
        """The number of a metric by its name, without a variant.

        Args:
            metric: Name of the metric.
            i: The matrix.

        Returns:
            The number, None where it was not measured.
        """
        for column, entry in enumerate(self.data["metrics"]):
            if entry["metric"] == metric and entry["variant"] is None:
                return self.value(i, column)
        return None

    def spectrum(self, subject: str | None) -> tuple[int, list[int], list[float]]:
        """Positions and values of one spectrum, those that are known and positive.

        Args:
            subject: Name of the matrix, or None for the first that has values.

        Returns:
            The matrix, positions from 1, values.

        Raises:
            UnknownNameError: No matrix of that name is on view.
            TableError: It has no values.
        """
        matrices, spectra = self.data["matrices"], self.data["spectra"]
        known = [i for i in self.shown if subject in {None, matrices[i]["name"]}]
        if not known:
            raise UnknownNameError(
                f"a spectrum is of a matrix of the table, got {subject!r}; it has "
                f"{', '.join(matrices[i]['name'] for i in self.shown[:5])}, ..."
            )
        at = next((i for i in known if spectra[i] and spectra[i]["values"]), None)
        if at is None:
            raise TableError(
                "a spectrum needs all singular values, the table has norms only; "
                "measure a metric that needs them, such as effective_rank"
            )
        grid = self.data["grids"][spectra[at]["grid"]]
        resolved, size = spectra[at]["resolved"], spectra[at]["size"]
        pairs = [
            (k, x)
            for k, x in zip(grid, spectra[at]["values"], strict=True)
            # What the route cannot tell from zero is no value to draw.
            if x is not None and x > 0.0 and k <= (resolved or size)
        ]
        return at, [k for k, _ in pairs], [x for _, x in pairs]

    def twins(self, i: int) -> tuple[list[int], list[float]] | None:
        """The spectrum of the random twins of a matrix.

        Args:
            i: The matrix.

        Returns:
            Positions from 1 and values; None where the scan made no twins.
        """
        twin = self.data["nulls"][i]
        if twin is None:
            return None
        return self.data["grids"][twin["grid"]], twin["values"]


def chosen(data: Mapping[str, Any], metric: str | None) -> Drawn:
    """Metric and matrices that a figure shows.

    Args:
        data: Payload of a table with measurements.
        metric: Name of the metric, or None.

    Returns:
        Them.

    Raises:
        UnknownNameError: The metric was not measured.
    """
    first = data["slice"]
    places = range(len(data["matrices"]))
    shown = [i for i in places if first is None or data["slice_of"][i] == first]
    columns = [
        column
        for column in range(data["plain"])
        if any(data["cells"][column][i] is not None for i in shown)
    ]
    names = [data["metrics"][column]["metric"] for column in columns]
    wanted = metric or ("stable_rank" if "stable_rank" in names else names[0])
    if wanted not in names:
        raise UnknownNameError(
            f"a figure shows a metric of the table, got {wanted!r}; it has "
            f"{', '.join(dict.fromkeys(names))}"
        )
    return Drawn(data, columns[names.index(wanted)], shown)


def colour_roles(drawn: Drawn) -> list[str]:
    """Roles with a colour of their own, in model order: the commonest that repeat.

    Args:
        drawn: What is shown.

    Returns:
        At most `MOST_GROUPS` names and one more, which may have the grey alone.
    """
    counts = Counter(str(drawn.data["matrices"][i]["role"]) for i in drawn.shown)
    if len(counts) <= MOST_GROUPS + 1:
        return list(counts)
    # As on the page: where there are too many, what occurs once shares the grey.
    repeated = Counter({role: n for role, n in counts.items() if n > 1}) or counts
    common = {role for role, _ in repeated.most_common(MOST_GROUPS)}
    return [role for role in counts if role in common]


def depth_groups(drawn: Drawn, *, least: int) -> list[tuple[str, int, list[int]]]:
    """Places of the matrices of each role.

    Args:
        drawn: What is shown.
        least: Fewest members of a role.

    Returns:
        Name, number of the colour, places; what has no colour of its own is
        ``others``.
    """
    roles = colour_roles(drawn)
    groups: dict[str, list[int]] = {role: [] for role in roles}
    for place, i in enumerate(drawn.shown):
        role = str(drawn.data["matrices"][i]["role"])
        groups.setdefault(role if role in roles else "others", []).append(place)
    return [
        (name, MOST_GROUPS if name == "others" else group, places)
        for group, (name, places) in enumerate(groups.items())
        if len(places) >= least and (least == 1 or name != "others")
    ]


def numbers(drawn: Drawn, places: Sequence[int]) -> list[tuple[int, float | None]]:
    """Place and number of each matrix.

    Args:
        drawn: What is shown.
        places: Places among the matrices on view.

    Returns:
        Pairs.
    """
    return [(at, drawn.value(drawn.shown[at])) for at in places]


def ranked(drawn: Drawn) -> tuple[list[str], list[Numbers]]:
    """Every metric by rank among the matrices, lowest 0, highest 1.

    Args:
        drawn: What is shown.

    Returns:
        Names of the metrics and their rows; ties share their mean, one number alone
        is 0.5.
    """
    labels, rows = [], []
    for column in range(drawn.data["plain"]):
        values = [drawn.value(i, column) for i in drawn.shown]
        order = sorted(x for x in values if x is not None)
        if not order:
            continue
        middle: dict[float, float] = {}
        for at, x in enumerate(order):
            last = at + order.count(x) - 1
            middle.setdefault(x, (at + last) / 2 / max(1, len(order) - 1))
        alone = len(order) == 1
        rows.append(
            [None if x is None else 0.5 if alone else middle[x] for x in values]
        )
        labels.append(str(drawn.data["metrics"][column]["label"]))
    return labels, rows
