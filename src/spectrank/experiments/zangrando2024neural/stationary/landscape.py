"""The regularised loss along curves in parameter space.

Heights are relative: how far the loss rises above the higher end, as a share of how
far the loss of the zero network, log K, lies above that end. Every path may go by way
of the zero network, at height 1. Optimised paths are Bezier curves.

T  points of a path    P  parameters    C  control points
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

NUM_CONTROLS = 3
NUM_TRAINED, NUM_SEEN = 12, 21
NUM_STEPS, RATE = 200, 0.02
POSITIONS = tuple(float(t) for t in np.linspace(0.0, 1.0, NUM_SEEN))


@final
class Landscape:
    """The regularised loss as a function of flat parameters, many at once."""

    def __init__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, weight_decay: float
    ) -> None:
        """Fix data and decay.

        Args:
            model: Whose architecture.
            inputs: (N, d).
            labels: (N,).
            weight_decay: On weights and biases.
        """
        self._model, self._inputs, self._labels = model, inputs, labels
        self._weight_decay = weight_decay
        self._shapes = {name: p.shape for name, p in model.named_parameters()}

    def losses(self, flat: Tensor) -> Tensor:
        """Return the regularised losses.

        Args:
            flat: (T, P).

        Returns:
            (T,).
        """
        losses: Tensor = vmap(self._loss)(flat)
        return losses + 0.5 * self._weight_decay * flat.square().sum(1)

    def heights(self, controls: Tensor) -> list[float]:
        """Return the relative heights along a Bezier curve.

        Its ends are to lie below the zero network, as minima do.

        Args:
            controls: (C, P) its control points; two make a straight path.

        Returns:
            T numbers.
        """
        with torch.no_grad():
            losses = self.losses(bezier(controls, torch.tensor(POSITIONS)))
        top = max(float(losses[0]), float(losses[-1]))
        zero = math.log(int(self._labels.max()) + 1)
        found: list[float] = ((losses - top) / (zero - top)).tolist()
        return found

    def curve(self, start: Tensor, end: Tensor) -> Tensor:
        """Optimise the inner control points by the mean loss along the curve.

        Args:
            start: (P,).
            end: (P,).

        Returns:
            (C, P) control points.
        """
        shares = torch.linspace(0, 1, NUM_CONTROLS + 2, dtype=start.dtype)
        inner = torch.lerp(start, end, shares[1:-1, None]).requires_grad_()
        positions = (torch.arange(NUM_TRAINED) + 0.5) / NUM_TRAINED
        optimizer = torch.optim.Adam([inner], lr=RATE)
        for _ in range(NUM_STEPS):
            controls = torch.cat([start[None], inner, end[None]])
            (inner.grad,) = torch.autograd.grad(
                self.losses(bezier(controls, positions)).mean(), [inner]
            )
            optimizer.step()
        return torch.cat([start[None], inner.detach(), end[None]])

    def _loss(self, flat: Tensor) -> Tensor:
        sizes = [shape.numel() for shape in self._shapes.values()]
        pieces = torch.split(flat, sizes)
        named = {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }
        outputs = functional_call(self._model, named, (self._inputs,))
        return cross_entropy(outputs, self._labels)


def bezier(controls: Tensor, positions: Tensor) -> Tensor:
    r"""Points :math:`\sum_j \binom{n}{j} t^j (1-t)^{n-j} c_j` of a Bezier curve.

    Args:
        controls: (n + 1, P).
        positions: (T,) t in [0, 1].

    Returns:
        (T, P).
    """
    n = len(controls) - 1
    t = positions.to(controls.dtype)[:, None]
    j = torch.arange(n + 1, dtype=controls.dtype)
    binomials = torch.tensor(
        [math.comb(n, i) for i in range(n + 1)], dtype=controls.dtype
    )
    return (binomials * t**j * (1.0 - t) ** (n - j)) @ controls
