"""Claims on the networks of a sweep without their small singular values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectrank.experiments.claims import Claim
from spectrank.experiments.questions import Axes, Estimates, Line, Question
from spectrank.experiments.zangrando2024neural.claims import claim
from spectrank.experiments.zangrando2024neural.networks import NUM_CLASSES
from spectrank.experiments.zangrando2024neural.removal.after import PROFILE, RULES

_OURS = "derived: tests/experiments/zangrando2024neural_sweeps"
LOSS = 0.01
"""Test accuracy that a truncation may cost."""


def questions(
    prefix: str, data: str, protocol: str, decays: Sequence[float]
) -> list[Question]:
    """Return what is asked of the truncated networks of a sweep.

    Args:
        prefix: Ahead of the claims' names.
        data: Name of the data set.
        protocol: Of the sweep, in words.
        decays: (P,) weight decays.

    Returns:
        The questions; their estimates read records (R, P) of the sweep.
    """
    found = [
        _keeps(rule, prefix, data, protocol, decays) for rule in ("certified", *_OTHER)
    ]
    return [*found, *_files(prefix, data, protocol, decays)]


_OTHER = ("classes", "energy", "entropy")


def _keeps(
    rule: str, prefix: str, data: str, protocol: str, decays: Sequence[float]
) -> Question:
    index = list(RULES).index(rule)
    asked = claim(
        f"{prefix}removal.{rule}",
        f"Truncating every layer at its {RULES[rule]} costs at most a hundredth of "
        f"test accuracy, a mean over the weight decays ({data}).",
        protocol=f"{protocol}; layers without a rank below their size stay whole",
        quantity="change_of_accuracy",
        relation="at_least",
        expected=-LOSS,
        source=_OURS,
        data=data,
    )
    if rule == "classes":
        axes, lines = _profile(decays)
    else:
        axes, lines = _size(index, decays)
    return Question(
        asked,
        lambda recorded: recorded["removed"]["change"][:, :, index].mean(1),
        axes,
        lines,
    )


def _profile(decays: Sequence[float]) -> tuple[Axes, tuple[Line, ...]]:
    def at(p: int) -> Estimates:
        return lambda recorded: recorded["removed"]["profile"][:, p]

    axes = Axes("rank of every layer", "test accuracy", "accuracy", x_scale="log")
    lines = tuple(
        Line(f"decay {x:g}", PROFILE, at(p), None) for p, x in enumerate(decays)
    )
    return axes, lines


def _size(index: int, decays: Sequence[float]) -> tuple[Axes, tuple[Line, ...]]:
    def of(name: str) -> Estimates:
        return lambda recorded: recorded["removed"][name][:, :, index]

    axes = Axes(
        "weight decay",
        "share of the numbers kept; change of test accuracy",
        "kept_and_change",
        x_scale="log",
    )
    x = tuple(decays)
    return axes, (
        Line("numbers kept", x, of("kept"), None),
        Line("change of accuracy", x, of("change"), None),
    )


def _files(
    prefix: str, data: str, protocol: str, decays: Sequence[float]
) -> list[Question]:
    protocol = f"{protocol}; rank {NUM_CLASSES}; safetensors, float32, biases whole"
    smaller = claim(
        f"{prefix}removal.file",
        "Factored at rank K wherever that is smaller, W = A B, and saved, a network "
        f"takes at most half of the bytes ({data}).",
        protocol=protocol,
        quantity="share_of_bytes",
        relation="at_most",
        expected=0.5,
        source=_OURS,
        data=data,
    )
    same = claim(
        f"{prefix}removal.reloaded",
        "Reloaded factors give the outputs of the truncated network: the largest "
        f"difference over the largest output, the worst of all decays ({data}).",
        protocol=protocol,
        quantity="largest_relative_difference",
        relation="at_most",
        expected=1e-5,
        source=_OURS,
        data=data,
    )
    return [
        _of_file(smaller, "file_share", "bytes over those of the whole file", decays),
        _of_file(same, "file_error", "largest relative difference", decays),
    ]


def _of_file(asked: Claim, name: str, y: str, decays: Sequence[float]) -> Question:
    def column(recorded: np.ndarray) -> np.ndarray:
        return np.asarray(recorded["removed"][name])

    return Question(
        asked,
        # The worst counts: a mean would hide a file that is read wrongly.
        lambda recorded: column(recorded).max(1),
        Axes("weight decay", y, asked.quantity, x_scale="log"),
        (Line("rank K", tuple(decays), column, None),),
    )
