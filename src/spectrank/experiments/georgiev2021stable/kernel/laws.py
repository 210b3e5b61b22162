r"""What the claims expect of K(x, x), apart from the library's own moments.

ReLU network without biases, widths n_0 ... n_L, W_l of shape (n_l, n_{l-1}) with
independent Haar frames; a1 = sum s^2, a2 = sum s^4 of its singular values. Per |x|^2,
summed over the outputs, all weights trained:

    K = sum_l K_l,   K_l = |h_{l-1}|^2 ||df/dz_l||_F^2,
    E K_l = n_L prod_{j<l} a1_j / (2 n_{j-1}) prod_{j>l} a1_j / (2 n_j).

Second moments pass a layer as the pair (E (tr X)^2, E tr X^2) of a symmetric X, on
which one layer and one mask act as 2 x 2 matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from spectrank.experiments.georgiev2021stable.signal import spectra


@final
@dataclass(frozen=True)
class LayerMoments:
    """One weight, by what the kernel's first two moments need of it.

    Attributes:
        num_out: m.
        num_in: n.
        energy: E a1.
        energy_squared: E a1^2.
        fourth: E a2.
    """

    num_out: int
    num_in: int
    energy: float
    energy_squared: float
    fourth: float

    @property
    def participation_ratio(self) -> float:
        """E a1^2 / E a2."""
        return self.energy_squared / self.fourth


def layer_moments(
    spectrum: str, stable_rank: float | None, energy: float, m: int, n: int
) -> LayerMoments:
    r"""Moments of a weight of mean square :math:`E\|W\|_F^2` = ``energy``.

    ``gaussian`` has independent entries of variance v = energy / (m n):
    :math:`E a_1^2 = v^2 (m^2 n^2 + 2 m n)`, :math:`E a_2 = v^2 m n (m + n + 1)`; the
    others have a fixed Frobenius norm.
    Source (derived): tests/experiments/georgiev2021stable_kernel.

    Args:
        spectrum: ``gaussian``, or as `spectra.expected_a2` has it.
        stable_rank: None for ``gaussian``.
        energy: E a1.
        m: Outputs.
        n: Inputs.

    Returns:
        The moments.
    """
    if stable_rank is None:
        v = energy / (m * n)
        square = v**2 * m * n * (m * n + 2.0)
        return LayerMoments(m, n, energy, square, v**2 * m * n * (m + n + 1.0))
    if min(m, n) == 1:
        return LayerMoments(m, n, energy, energy**2, energy**2)
    share = spectra.expected_a2(spectrum, stable_rank, m, n) / stable_rank**2
    return LayerMoments(m, n, energy, energy**2, energy**2 * share)


@final
@dataclass(frozen=True)
class KernelLaw:
    """First two moments of K(x, x) / |x|^2.

    Attributes:
        layers: First to last.
    """

    layers: tuple[LayerMoments, ...]

    @cached_property
    def mean_terms(self) -> np.ndarray:
        """(L,) E K_l."""
        forward = [x.energy / (2.0 * x.num_in) for x in self.layers]
        backward = [x.energy / (2.0 * x.num_out) for x in self.layers]
        outputs = self.layers[-1].num_out
        return np.array(
            [
                outputs * math.prod(forward[:i]) * math.prod(backward[i + 1 :])
                for i in range(len(self.layers))
            ]
        )

    @property
    def mean(self) -> float:
        """E K."""
        return float(self.mean_terms.sum())

    @cached_property
    def second_moment(self) -> float:
        """E K^2, exact at every width."""
        signals, gradients = self._signals(), self._gradients()
        num = len(self.layers)
        total = math.fsum(signals[i] * gradients[i] for i in range(num))
        for i in range(num - 1):
            for k, block in enumerate(self._blocks(i), start=i + 1):
                first, last = self.layers[i], self.layers[k]
                # |h_{k-1}|^2 and ||df/dz_i||^2 share the block between the layers.
                shared = first.energy / (first.num_in * first.num_out)
                shared *= last.energy / (last.num_in * last.num_out) * block
                total += 2.0 * signals[i] * shared * gradients[k]
        return total

    @property
    def relative_variance(self) -> float:
        """Var K / (E K)^2."""
        return self.second_moment / self.mean**2 - 1.0

    def _signals(self) -> list[float]:
        """E |h_{l-1}|^4, l = 1 ... L."""
        state, found = np.ones(2), [1.0]
        for layer in self.layers[:-1]:
            state = _mask(layer.num_out) @ _pass(layer, layer.num_in) @ state
            found.append(float(state[0]))
        return found

    def _gradients(self) -> list[float]:
        """E ||df/dz_l||_F^4, l = 1 ... L."""
        outputs = float(self.layers[-1].num_out)
        state, found = np.array([outputs**2, outputs]), [outputs**2]
        for layer in reversed(self.layers[1:]):
            state = _mask(layer.num_in) @ _pass(layer, layer.num_out) @ state
            found.append(float(state[0]))
        return found[::-1]

    def _blocks(self, i: int) -> list[float]:
        """E ||P||_F^4 of P = D W ... W D from layer i to each later one's input."""
        n = self.layers[i].num_out
        # One mask alone: D is diagonal with n independent halves.
        state = np.array([n * (n + 1) / 4.0, n / 2.0])
        found = [float(state[0])]
        for layer in self.layers[i + 1 : -1]:
            state = _mask(layer.num_out) @ _pass(layer, layer.num_in) @ state
            found.append(float(state[0]))
        return found


def _pass(layer: LayerMoments, n: int) -> np.ndarray:
    """X (n x n) to W X W^T, W with n columns, or W^T X W with n rows."""
    if n == 1:
        return np.diag([layer.energy_squared] * 2)
    q, a2 = layer.energy_squared, layer.fourth
    beta = (n * a2 - q) / (n * (n - 1.0) * (n + 2.0))
    alpha = (q - 2.0 * n * beta) / n**2
    return np.array([[alpha, 2.0 * beta], [beta, alpha + beta]])


def _mask(m: int) -> np.ndarray:
    """Y (m x m, orthogonally invariant) to D Y D."""
    # sum_i E Y_ii^2 = (E (tr Y)^2 + 2 E tr Y^2) / (m + 2), a quarter of it extra.
    extra = np.array([1.0, 2.0]) / (m + 2.0)
    return np.asarray((np.eye(2) + extra) / 4.0)
