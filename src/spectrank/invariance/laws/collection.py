"""Laws: all that is conserved in a network, and the places where nothing is."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final, get_args, overload

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.text import Text

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.laws.law import Law, LawKind, NoLaw
from spectrank.invariance.laws.plain import as_dict, from_dict
from spectrank.invariance.laws.rows import COLUMNS, law_row, no_law_row
from spectrank.table import Table

# Places without a law that are shown; a deep network has hundreds.
_SHOWN = 12


@final
@dataclass(frozen=True, eq=False, repr=False)
class Laws(Sequence[Law]):
    """The families of laws of a network, in the order of the dataflow.

    Attributes:
        laws: The families; their names are unique.
        skipped: Places without a law, with the reason.

    Example:
        >>> import numpy as np
        >>> from spectrank.invariance.laws import GramTerm, Law, Laws
        >>> terms = (
        ...     GramTerm("0.weight", (8, 4), (0,), None, 1.0),
        ...     GramTerm("1.weight", (2, 8), (1,), None, -1.0),
        ... )
        >>> law = Law("matrix 0", "matrix", "gram", terms, (8, 8), 33, "", "derived")
        >>> print(Laws((law,)))
        1 family, 33 laws
        matrix 0  33  0.weight; minus 1.weight
    """

    laws: tuple[Law, ...]
    skipped: tuple[NoLaw, ...] = ()

    def __post_init__(self) -> None:
        names = Counter(law.name for law in self.laws)
        if names and names.most_common(1)[0][1] > 1:
            name, times = names.most_common(1)[0]
            raise DomainError(
                f"laws are told apart by their names, got {times} named {name!r}; "
                "add the place to the name"
            )

    @overload
    def __getitem__(self, key: int | str) -> Law: ...

    @overload
    def __getitem__(self, key: slice) -> Laws: ...

    def __getitem__(self, key: int | str | slice) -> Law | Laws:
        """Return a law by number or name, or several by a slice.

        Args:
            key: Number, name or slice.

        Returns:
            The law; for a slice a collection with the same ``skipped``.

        Raises:
            UnknownNameError: No law has that name.
        """
        if isinstance(key, slice):
            return Laws(self.laws[key], self.skipped)
        if isinstance(key, int):
            return self.laws[key]
        for law in self.laws:
            if law.name == key:
                return law
        raise UnknownNameError(
            f"a law is asked for by its name, got {key!r}; "
            f"the first names are {', '.join(law.name for law in self.laws[:6])}"
        )

    def __len__(self) -> int:
        return len(self.laws)

    def __iter__(self) -> Iterator[Law]:
        return iter(self.laws)

    def select(self, *kinds: str) -> Laws:
        """Laws of the given kinds.

        Args:
            *kinds: Such as ``vertex``, ``matrix``.

        Returns:
            Those laws, with the same ``skipped``.

        Raises:
            UnknownNameError: There is no such kind.
        """
        for kind in kinds:
            if kind not in get_args(LawKind):
                raise UnknownNameError(
                    f"a kind of law is one of {', '.join(get_args(LawKind))}, "
                    f"got {kind!r}; a law is asked for by its name with laws[name]"
                )
        return Laws(tuple(law for law in self.laws if law.kind in kinds), self.skipped)

    def of(self, parameter: str) -> Laws:
        """Laws in which a parameter takes part.

        Args:
            parameter: Its name; of a tied one the first.

        Returns:
            Those laws, with the same ``skipped``.
        """
        found = tuple(law for law in self.laws if parameter in law.parameters)
        return Laws(found, self.skipped)

    @property
    def num_laws(self) -> int:
        """Sum of the counts of the families; cuts repeat what other families say.

        Laws of entries that are constant by themselves are counted as constants only.
        """
        return sum(law.count for law in self.laws)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters that take part in a law, each once."""
        return tuple(dict.fromkeys(p for law in self.laws for p in law.parameters))

    def table(self) -> Table:
        """Rows of kind ``law``, then rows of kind ``skip``.

        Returns:
            One row a family: its name (``subject``), kind (``metric``), form
            (``variant``), condition (``reason``) and source, the parameters that
            enter (``params_in``) and leave (``params_out``) with the axes of the
            features. ``provenance["laws"]`` holds the terms, from which
            ``Laws.from_table`` makes the laws again.
        """
        rows = [law_row(law) for law in self.laws]
        rows += [no_law_row(item) for item in self.skipped]
        return Table.from_rows(
            rows, columns=COLUMNS, provenance={"laws": self.as_dict()}
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the laws as plain JSON.

        Returns:
            A dictionary that ``from_dict`` reads.
        """
        return as_dict(self.laws, self.skipped)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Laws:
        """Read what ``as_dict`` returned.

        Args:
            data: The dictionary, also after a trip through JSON.

        Returns:
            Laws with equal values.

        Raises:
            DomainError: It is of another version or lacks a part.
        """  # noqa: DOC502 - raised by the function called
        return cls(*from_dict(data))

    @classmethod
    def from_table(cls, table: Table) -> Laws:
        """Make the laws again from their table.

        Args:
            table: What ``table`` returned, also after a trip through a file.

        Returns:
            Laws with equal values.

        Raises:
            DomainError: The table holds no laws.
        """
        data = table.provenance.get("laws")
        if data is None:
            raise DomainError(
                "laws are read from the provenance of their table, got one without; "
                "give the table of a Laws, not one of its concatenations"
            )
        return cls.from_dict(data)

    def __repr__(self) -> str:
        return f"Laws({_headline(self)})"

    def __str__(self) -> str:
        """Return what a terminal shows, as text."""
        console = Console(file=io.StringIO(), color_system=None, width=88)
        with console.capture() as captured:
            console.print(self)
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        yield Text(_headline(self), style="bold")
        for law in self.laws:
            line = Text(law.name, style="cyan").append(f"  {law.count}", style="bold")
            yield line.append(f"  {_formula(law)}", style="none")
        if self.skipped:
            yield Text("no law:", style="bold yellow")
        for item in self.skipped[:_SHOWN]:
            text = Text(f"{item.name}: {item.reason}", style="yellow")
            yield Padding(text, (0, 0, 0, 2), expand=False)
        if len(self.skipped) > _SHOWN:
            rest = Text(f"and {len(self.skipped) - _SHOWN} more", style="dim")
            yield Padding(rest, (0, 0, 0, 2), expand=False)


def _headline(laws: Laws) -> str:
    families = f"{len(laws)} famil{'y' if len(laws) == 1 else 'ies'}"
    skipped = ""
    if laws.skipped:
        num = len(laws.skipped)
        skipped = f", {num} {'place' if num == 1 else 'places'} without"
    return f"{families}, {laws.num_laws} laws{skipped}"


def _formula(law: Law) -> str:
    row = law_row(law)
    entering, leaving = (
        ", ".join(
            # Rows of a shared parameter are told apart, as of one for q, k and v.
            name + axis[axis.index("[") :] if "[" in axis else name
            for name, axis in zip(
                row[f"params_{side}"], row[f"axis_{side}"], strict=True
            )
        )
        for side in ("in", "out")
    )
    return "; minus ".join(part for part in (entering, leaving) if part)
