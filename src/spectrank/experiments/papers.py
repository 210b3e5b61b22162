"""Papers: their claims in parts that can be run one by one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final, get_args

from spectrank.errors import DomainError, UnknownNameError
from spectrank.experiments.claims import Claim
from spectrank.experiments.verdicts import Row

Mode = Literal["quick", "full"]
Tick = Callable[[], None]

_KEYS = ("georgiev2021stable", "le2022training", "zangrando2024neural")


@final
@dataclass(frozen=True)
class PartResult:
    """What one part measured.

    Attributes:
        rows: Claim rows and the measurement rows of their figures.
        figures: Claim key to title and axes, as the report takes them.
        data: Name of a data set to the checksums of its files.
    """

    rows: tuple[Row, ...]
    figures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Part:
    """An experiment that answers one or several claims.

    Attributes:
        name: Unique within the paper and mode.
        claims: What it answers.
        settings: All that its result depends on but the seed, as plain JSON.
        num_steps: How often it calls ``tick``.
        run: Maps the seed and ``tick`` to the result.
    """

    name: str
    claims: tuple[Claim, ...]
    settings: Mapping[str, Any]
    num_steps: int
    run: Callable[[int, Tick], PartResult]


@final
@dataclass(frozen=True)
class Paper:
    """A paper and how its claims are put to the test.

    Attributes:
        key: Such as ``georgiev2021stable``.
        title: Of the paper.
        authors: Of the paper.
        identifier: Such as ``arXiv:2110.02333``.
        parts: Maps a mode to the parts to run.
        cost: Mode to a phrase on time and memory.
    """

    key: str
    title: str
    authors: str
    identifier: str
    parts: Callable[[Mode], tuple[Part, ...]]
    cost: Mapping[str, str]

    def claims(self, mode: Mode = "quick") -> tuple[Claim, ...]:
        """Return the claims in the order of their parts.

        Args:
            mode: ``quick`` or ``full``.

        Returns:
            All claims of that mode.
        """
        return tuple(claim for part in self.parts(mode) for claim in part.claims)


def list_papers() -> tuple[Paper, ...]:
    """Return all papers that have claims here.

    Returns:
        In alphabetical order of their keys.
    """
    return tuple(get_paper(key) for key in sorted(_KEYS))


def get_paper(key: str) -> Paper:
    """Return a paper by its key.

    Args:
        key: Such as ``georgiev2021stable``.

    Returns:
        The paper.

    Raises:
        UnknownNameError: With the nearest key.
    """
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(_KEYS)}"
        raise UnknownNameError(f"no paper is named {key!r}; {hint}")
    paper: Paper = importlib.import_module(f"spectrank.experiments.{key}").PAPER
    return paper


def check_mode(mode: str) -> Mode:
    """Return the mode, or refuse it.

    Args:
        mode: A word.

    Returns:
        The same word.

    Raises:
        DomainError: It is neither ``quick`` nor ``full``.
    """
    if mode not in get_args(Mode):
        raise DomainError(
            f"a mode is quick or full, got {mode!r}; quick takes a few minutes"
        )
    return mode  # type: ignore[return-value]
