"""Trained networks without their small singular values: accuracy, size, file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from spectrank.experiments.zangrando2024neural.networks import NUM_CLASSES
from spectrank.experiments.zangrando2024neural.removal.factored import (
    factored,
    load,
    save,
)
from spectrank.experiments.zangrando2024neural.removal.truncation import (
    ranks_by_energy,
    ranks_by_entropy,
    share_kept,
    with_ranks,
)
from spectrank.model import iter_matrices

RULES: Mapping[str, str] = MappingProxyType(
    {
        "classes": f"rank K = {NUM_CLASSES}",
        "certified": "certified rank",
        "energy": "99 % of the squared singular values",
        "entropy": "effective rank",
    }
)
"""Rules that name the rank of every layer, in words."""

PROFILE = (1, 2, 3, 4, 6, 8, 9, 10, 12, 16, 24, 32)
"""Ranks to which every layer is truncated at once, for the figure."""

TYPE = np.dtype(
    [
        ("change", "f8", (len(RULES),)),
        ("kept", "f8", (len(RULES),)),
        ("profile", "f8", (len(PROFILE),)),
        ("file_share", "f8"),
        ("file_error", "f8"),
    ]
)
"""For each rule the change of test accuracy and the share of the weights' numbers that
is left; the accuracy at each rank of `PROFILE`; bytes of the file of the network that
is factored at rank K over those of the whole one; and the largest difference of an
output of the reloaded factors from one of the truncated network, over the largest
output."""


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of the samples whose largest output is at their class.

    Args:
        model: The network.
        inputs: (N, ...).
        labels: (N,).

    Returns:
        In [0, 1].
    """
    with torch.no_grad():
        return float((model(inputs).argmax(1) == labels).double().mean())


def remove(
    model: nn.Sequential, test: tuple[Tensor, Tensor], certified: Sequence[int]
) -> np.ndarray:
    """Truncate a network by every rule and judge what is left.

    Args:
        model: Float32; not changed.
        test: Inputs and labels of the test set.
        certified: Certified rank of each weight.

    Returns:
        A number of the type `TYPE`.
    """
    found = list(iter_matrices(model))
    names, weights = [w.name for w in found], [w.tensor() for w in found]
    shapes = {w.name: tuple(model.get_parameter(w.name).shape) for w in found}
    sizes = [min(w.shape) for w in weights]
    # A layer that is told apart from none of its ranks is not cut.
    classes = [NUM_CLASSES] * len(sizes)
    ranks = (
        classes,
        list(certified),
        list(ranks_by_energy(weights, 0.99)),
        list(ranks_by_entropy(weights)),
    )
    whole = accuracy(model, *test)
    cut = [accuracy(with_ranks(model, names, r), *test) for r in ranks]
    profile = [
        accuracy(with_ranks(model, names, [k] * len(names)), *test) for k in PROFILE
    ]
    file = _file(model, with_ranks(model, names, classes), test[0], classes)
    return np.array(
        (
            [after - whole for after in cut],
            [share_kept(shapes, r) for r in ranks],
            profile,
            *file,
        ),
        dtype=TYPE,
    )


def _file(
    model: nn.Sequential, cut: nn.Module, inputs: Tensor, ranks: Sequence[int]
) -> tuple[float, float]:
    """Share of the bytes, and relative error of the outputs after a reload."""
    with tempfile.TemporaryDirectory() as folder:
        whole = save(model, Path(folder) / "whole.safetensors")
        path = Path(folder) / "factors.safetensors"
        size = save(factored(model, ranks), path)
        # Every parameter is NaN until it is read.
        blank = factored(model, ranks)
        with torch.no_grad():
            for parameter in blank.parameters():
                parameter.fill_(torch.nan)
        load(blank, path)
    with torch.no_grad():
        expected, found = cut(inputs), blank(inputs)
    return size / whole, float((found - expected).abs().max() / expected.abs().max())
