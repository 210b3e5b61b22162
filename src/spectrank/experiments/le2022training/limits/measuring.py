"""What is measured of a chain of layers: ranks, alignment, certificates, margins.

R  seeds    n  samples    d  inputs
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from spectrank.experiments.le2022training.problems import Params, Problem
from spectrank.invariance.certificates import certify
from spectrank.model import Graph, graph


@final
@dataclass(frozen=True)
class Chain:
    """Dense layers without biases, ReLU after the first hidden ones.

    Attributes:
        widths: Of inputs, hidden layers, outputs.
        num_relus: Hidden layers that are followed by ReLU.
    """

    widths: tuple[int, ...]
    num_relus: int = 0

    @property
    def depth(self) -> int:
        """Number of layers, the degree of homogeneity."""
        return len(self.widths) - 1

    def trace(self) -> Graph:
        """Return its graph; layer i is named ``i``.

        Returns:
            The graph.
        """
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (a, b) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            layers[str(i)] = nn.Linear(a, b, bias=False, dtype=torch.float64)
            if i < self.num_relus:
                layers[f"relu{i}"] = nn.ReLU()
        example = torch.zeros(1, self.widths[0], dtype=torch.float64)
        return graph(nn.Sequential(layers), example)


def one(params: Mapping[str, Tensor], seed: int) -> Params:
    """Return the parameters of one seed.

    Args:
        params: Of all.
        seed: Which.

    Returns:
        Name to value without the axis of seeds.
    """
    return {k: v[seed] for k, v in params.items()}


def stable_ranks(params: Mapping[str, Tensor], layers: Sequence[int]) -> np.ndarray:
    """Stable ranks of layers of every seed.

    Args:
        params: ``i.weight`` (R, b, a).
        layers: Which i.

    Returns:
        (R, layers); NaN where an entry is not finite.
    """
    found = [singular_values(params[f"{i}.weight"]) for i in layers]
    return np.stack([np.square(s).sum(1) / s[:, 0] ** 2 for s in found], 1)


def singular_values(weight: Tensor) -> np.ndarray:
    """Singular values of a layer of every seed.

    Args:
        weight: (R, b, a).

    Returns:
        (R, min(a, b)), descending; NaN where an entry is not finite.
    """
    finite = weight.isfinite().all(2).all(1)
    # LAPACK refuses what is not finite, for all seeds together.
    found = torch.linalg.svdvals(weight.nan_to_num(0.0, 0.0, 0.0))
    return np.asarray(found.masked_fill(~finite[:, None], torch.nan))


def certificates(
    traced: Graph,
    start: Mapping[str, Tensor],
    now: Mapping[str, Tensor],
    *,
    softmax: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Certify the linear tail of every seed from its start, drift added.

    Args:
        traced: Graph of the network.
        start: Parameters at the start.
        now: Parameters now.
        softmax: Whether the loss depends on differences of logits only.

    Returns:
        (R,) largest excess of what is bounded over its bound, in units of the bound or
        of 1 if that is smaller, 0 where all bounds hold; (R,) smallest
        alignment of neighbouring layers of the tail, NaN without one; (R,) largest
        drift of a bound, in units of the bound at the start. NaN where a parameter is
        not finite.
    """
    excess: list[float] = []
    aligned: list[float] = []
    drift: list[float] = []
    for r in range(len(next(iter(now.values())))):
        if not all(bool(v[r].isfinite().all()) for v in now.values()):
            for each in (excess, aligned, drift):
                each.append(np.nan)
            continue
        table = certify(traced, start=one(start, r), now=one(now, r), softmax=softmax)
        # The last layer's bounds are 0 or 1 whatever the training did.
        rows = [row for row in table.frame.to_dicts() if row["bound"] is not None]
        rows = [row for row in rows if row["subject"] != rows[-1]["subject"]]
        found = [-row["slack"] / max(abs(row["bound"]), 1.0) for row in rows]
        # How far a bound holds is no part of whether it does.
        excess.append(max(0.0, *found))
        found = [row["value"] for row in rows if row["metric"] == "alignment"]
        aligned.append(min(found, default=np.nan))
        drift.append(
            max(
                abs(row["drift"]) / max(row["bound_at_start"], 1e-300)
                for row in rows
                if row["metric"] == "tail"
            )
        )
    return np.array(excess), np.array(aligned), np.array(drift)


def hard_margin(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Largest margin of a linear function on the data, and its direction.

    min ||w|| subject to y_i <w, x_i> >= 1, as a least distance problem by non-negative
    least squares (Lawson & Hanson): exact up to rounding.
    Source (derived): tests/experiments/le2022training, by the KKT conditions.

    Args:
        problem: Data (R, n, d) with labels -1 and 1.

    Returns:
        (R,) margins and (R, d) unit vectors.
    """
    gammas, directions = [], []
    for x, y in zip(problem.inputs.numpy(), problem.labels.numpy(), strict=True):
        rows = np.vstack([(y[:, None] * x).T, np.ones(len(x))])
        target = np.append(np.zeros(x.shape[1]), 1.0)
        residual = rows @ nnls(rows, target)[0] - target
        w = -residual[:-1] / residual[-1]
        gammas.append(1.0 / np.linalg.norm(w))
        directions.append(w / np.linalg.norm(w))
    return np.array(gammas), np.array(directions)
