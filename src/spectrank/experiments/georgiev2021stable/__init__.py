"""Georgiev, Franken, Mukherjee & Arvanitidis (2021), arXiv:2110.02333.

Only the abstract is public to us: a statement is attributed to it alone, and every
sampling law, protocol and constant here is ours.
"""

from __future__ import annotations

from types import MappingProxyType

from spectrank.experiments.georgiev2021stable import (
    convergence,
    kernel,
    mean_signal,
    signal,
)
from spectrank.experiments.papers import Mode, Paper, Part


def _parts(mode: Mode) -> tuple[Part, ...]:
    return (
        *mean_signal.parts(mode),
        *signal.parts(mode),
        *kernel.parts(mode),
        *convergence.parts(mode),
    )


PAPER = Paper(
    key="georgiev2021stable",
    title="On the Impact of Stable Ranks in Deep Nets",
    authors="B. Georgiev, L. Franken, M. Mukherjee, G. Arvanitidis",
    identifier="arXiv:2110.02333",
    parts=_parts,
    cost=MappingProxyType(
        {
            "quick": "bundled digits, a few minutes on two cores",
            "full": "digits, MNIST, Fashion-MNIST and CIFAR-10, more seeds and the "
            "study of convergence, about three hours on two cores, 3 GB",
        }
    ),
)
