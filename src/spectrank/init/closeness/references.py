r"""Initialisations that a layer is compared with: law and variance of the entries.

Fans are those of the matrix as stored: n inputs, and m outputs times the size of a
kernel, which is how `torch.nn.init` counts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

from scipy.special import chdtr, chdtrc, ndtr

EntryLaw = Literal["normal", "uniform", "orthogonal"]

NORMAL_EXCESS, UNIFORM_EXCESS = 0.0, -1.2
"""Excess kurtosis of the two laws of entries."""

# Blocks that torch.nn stacks into one weight; its deviation is set by the hidden size.
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@final
@dataclass(frozen=True)
class Reference:
    """One initialisation at one shape.

    Attributes:
        name: Such as ``he-normal``.
        title: In plain words, with the function of torch that makes it.
        law: Law of the entries.
        variance: Of an entry; for ``orthogonal`` its mean square, 1 / max(m, n).
    """

    name: str
    title: str
    law: EntryLaw
    variance: float

    def frobenius_norm(self, m: int, n: int) -> tuple[float, float]:
        r"""Mean square root and standard deviation of the Frobenius norm.

        :math:`\sqrt{mnv}` and, to first order,
        :math:`\sqrt{v (2 + \kappa) / 4}`, kappa the excess kurtosis; 0 if orthogonal.

        Args:
            m: Number of rows.
            n: Number of columns.

        Returns:
            The norm and its deviation.
        """
        norm = math.sqrt(self.variance) * math.sqrt(m * n)
        if self.law == "orthogonal":
            return norm, 0.0
        excess = UNIFORM_EXCESS if self.law == "uniform" else NORMAL_EXCESS
        return norm, math.sqrt(self.variance) * math.sqrt((2.0 + excess) / 4.0)

    def scale_p_value(self, frobenius: float, m: int, n: int) -> float:
        r"""Two-sided probability of a Frobenius norm as far from the expected.

        Exact for normal entries, :math:`\|W\|_F^2 / v \sim \chi^2_{mn}`; for uniform
        ones by their exact mean and variance and the central limit theorem.

        Args:
            frobenius: Norm found.
            m: Number of rows.
            n: Number of columns.

        Returns:
            In [0, 1]; for ``orthogonal``, whose norm is not random, 0 or 1.
        """
        size = m * n
        # Divide first: a norm of 1e-200 has no square.
        ratio = (frobenius / math.sqrt(self.variance)) / math.sqrt(size)
        if self.law == "orthogonal":
            return float(math.isclose(ratio, 1.0, rel_tol=1e-3))
        square = size * ratio * ratio
        if self.law == "normal":
            tail = min(float(chdtr(size, square)), float(chdtrc(size, square)))
            return min(1.0, 2.0 * tail)
        z = (square - size) / math.sqrt((2.0 + UNIFORM_EXCESS) * size)
        return float(2.0 * ndtr(-abs(z)))


def references(
    m: int, n: int, *, kernel: int = 1, layer_type: str | None = None
) -> tuple[Reference, ...]:
    """The initialisations of a layer.

    Args:
        m: Number of outputs.
        n: Number of inputs, kernel included.
        kernel: Entries of a kernel per channel pair; 1 for a linear layer.
        layer_type: Class name of the layer, which tells recurrent ones.

    Returns:
        References, the most common ones first.
    """
    fan_in, fan_out = n, m * kernel
    glorot = 2.0 / (fan_in + fan_out)
    found = [
        Reference("he-normal", "He normal, gain sqrt 2", "normal", 2.0 / fan_in),
        Reference("lecun-normal", "LeCun normal, gain 1", "normal", 1.0 / fan_in),
        Reference("glorot-normal", "Glorot normal", "normal", glorot),
        Reference(
            "torch-default", "PyTorch's default, uniform", "uniform", 1.0 / (3 * fan_in)
        ),
        Reference("orthogonal", "orthogonal, gain 1", "orthogonal", 1.0 / max(m, n)),
        Reference("he-uniform", "He uniform, gain sqrt 2", "uniform", 2.0 / fan_in),
        Reference("glorot-uniform", "Glorot uniform", "uniform", glorot),
        Reference("normal-0.02", "normal of deviation 0.02", "normal", 0.02**2),
        Reference("normal-1", "normal of deviation 1", "normal", 1.0),
    ]
    if gates := _GATES.get(layer_type or ""):
        hidden = max(m // gates, 1)
        found.append(
            Reference(
                "rnn-default",
                "PyTorch's recurrent default, uniform",
                "uniform",
                1.0 / (3 * hidden),
            )
        )
    return tuple(found)
