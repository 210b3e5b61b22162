"""Zangrando, Deidda, Brugiapaglia, Guglielmi & Tudisco (2024), arXiv:2402.03991.

Only the abstracts of its three versions are public to us: a statement is attributed to
them alone, and every bound, constant, protocol and network here is ours.
"""

from __future__ import annotations

from types import MappingProxyType

from spectrank.experiments.papers import Mode, Paper, Part
from spectrank.experiments.threads import on_one_thread
from spectrank.experiments.zangrando2024neural import stationary, sweeps


def _parts(mode: Mode) -> tuple[Part, ...]:
    found = (*stationary.parts(mode), *sweeps.parts(mode))
    return on_one_thread(found)


PAPER = Paper(
    key="zangrando2024neural",
    title="Neural Rank Collapse: Weight Decay and Small Within-Class Variability Yield "
    "Low-Rank Bias",
    authors="E. Zangrando, P. Deidda, S. Brugiapaglia, N. Guglielmi, F. Tudisco",
    identifier="arXiv:2402.03991",
    parts=_parts,
    cost=MappingProxyType(
        {
            "quick": "mixtures and bundled digits, under four minutes on two cores",
            "full": "more seeds, MNIST, Fashion-MNIST and CIFAR-10, up to three hours "
            "on two cores",
        }
    ),
)
