r"""Small networks of many seeds as one batch, their data, their margins and gradients.

Everything is float64. A network is a function of named parameters, each with the axis
of the seeds in front. All losses are functions of the margin m of a sample, y f(x) for
labels y = -1 or 1, and f_y - log sum_{j != y} exp f_j for classes, in which softmax
cross-entropy is log(1 + e^{-m}) exactly.

R  seeds    n  samples    d  inputs    a, b  units
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from spectrank.experiments.le2022training.claims import KEY
from spectrank.experiments.seeds import derive_generator

Params = dict[str, Tensor]
Forward = Callable[[Mapping[str, Tensor], Tensor], Tensor]
Loss = Literal["logistic", "exponential"]

# log(log1p(exp(-m))) loses all digits where exp(-m) underflows; there it is -m.
_FAR = 30.0


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A network on its data.

    Attributes:
        forward: Maps parameters and inputs (R, n, d) to (R, n), or (R, n, C) logits.
        inputs: (R, n, d).
        labels: (R, n): -1 or 1 for one output, classes from 0 for logits.
        loss: Of the margin.
    """

    forward: Forward
    inputs: Tensor
    labels: Tensor
    loss: Loss = "logistic"

    def margins(self, params: Mapping[str, Tensor]) -> Tensor:
        """Margins of all samples.

        Args:
            params: Of every seed.

        Returns:
            (R, n).
        """
        out = self.forward(params, self.inputs)
        if out.ndim == self.labels.ndim:
            return self.labels * out
        own = self.labels.unsqueeze(-1)
        others = out.scatter(-1, own, -math.inf).logsumexp(-1)
        return out.gather(-1, own).squeeze(-1) - others


@final
@dataclass(frozen=True, eq=False)
class Slope:
    """Gradients of the logarithm of the risk; they exist where the risk underflows.

    Attributes:
        log_risk: (R,) log of the mean loss.
        gradients: Of ``log_risk`` by each parameter.
        margins: (R, n).
    """

    log_risk: Tensor
    gradients: Params
    margins: Tensor

    def of_risk(self) -> Params:
        """Return the gradient of the risk itself.

        Returns:
            Name to gradient.
        """
        risk = self.log_risk.exp()
        return {
            k: g * risk.view(-1, *[1] * (g.ndim - 1)) for k, g in self.gradients.items()
        }


def slope(problem: Problem, params: Mapping[str, Tensor]) -> Slope:
    r"""Gradient of log R, R the mean loss, without forming R.

    :math:`\nabla \log R = -\sum_i c_i \nabla m_i` with c_i = -ell'(m_i) / sum_j ell_j,
    formed from logarithms, so that a risk of 1e-300 costs no digits.
    Source (derived): tests/experiments/le2022training, autograd on the risk.

    Args:
        problem: The network on its data.
        params: Of every seed.

    Returns:
        Log risk, gradients, margins.
    """
    leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
    with torch.enable_grad():
        margins = problem.margins(leaves)
        log_losses, log_slopes = _logs(margins.detach(), problem.loss)
        log_sum = log_losses.logsumexp(1)
        weights = (log_slopes - log_sum[:, None]).exp()
        total = -(weights * margins).sum()
        found = torch.autograd.grad(total, list(leaves.values()))
    return Slope(
        log_sum - math.log(margins.shape[1]),
        dict(zip(leaves, found, strict=True)),
        margins.detach(),
    )


def _logs(margins: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Logarithms of the loss and of its negative derivative."""
    if loss == "exponential":
        return -margins, -margins
    near = margins.clamp(max=_FAR)
    log_loss = torch.where(
        margins > _FAR, -margins, torch.nn.functional.softplus(-near).log()
    )
    return log_loss, torch.nn.functional.logsigmoid(-margins)


def separable(seed: int, labels: Sequence[str], num: int, d: int, n: int) -> Problem:
    """Return linearly separable data, and the linear function that separates them.

    Gaussian points at least 0.3 from a random hyperplane through 0, labelled by its
    side, then scaled so that the longest has norm 1.

    Args:
        seed: Base seed.
        labels: Names of the stream.
        num: R.
        d: Dimension.
        n: Samples.

    Returns:
        Inputs (R, n, d) and labels -1, 1; its network is ``x -> x_1``, to be replaced.
    """
    inputs = torch.empty(num, n, d, dtype=torch.float64)
    targets = torch.empty(num, n, dtype=torch.float64)
    for r in range(num):
        generator = derive_generator(seed, KEY, *labels, "data", r)
        normal = torch.randn(d, dtype=torch.float64, generator=generator)
        normal /= normal.norm()
        # One in four lies within 0.3 of the plane.
        points = torch.randn(4 * n + 40, d, dtype=torch.float64, generator=generator)
        points = points[(points @ normal).abs() > 0.3][:n]
        inputs[r] = points / points.norm(dim=1).max()
        targets[r] = (points @ normal).sign()
    return Problem(lambda _, x: x[..., 0], inputs, targets)


def gaussian(
    seed: int,
    labels: Sequence[str],
    num: int,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    scale: float = 1.0,
) -> Params:
    """Draw parameters: ``scale * N(0, 1 / fan_in)``, vectors N(0, scale^2 / 4).

    Args:
        seed: Base seed.
        labels: Names of the stream.
        num: R.
        shapes: Name to shape without the axis of seeds; a vector is a bias or a
            diagonal.
        scale: Factor.

    Returns:
        Name to (R, *shape).
    """
    drawn: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for r in range(num):
        generator = derive_generator(seed, KEY, *labels, "start", r)
        for name, shape in shapes.items():
            value = torch.randn(shape, dtype=torch.float64, generator=generator)
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
            drawn[name].append(value * scale / math.sqrt(fan_in))
    return {name: torch.stack(values) for name, values in drawn.items()}


def affine(params: Mapping[str, Tensor], name: str, h: Tensor) -> Tensor:
    """Apply a dense layer of every seed, with its bias if it has one.

    Args:
        params: With ``name.weight`` (R, b, a) and, or not, ``name.bias`` (R, b).
        name: Of the layer.
        h: (R, n, a).

    Returns:
        (R, n, b).
    """
    z = h @ params[f"{name}.weight"].mT
    bias = params.get(f"{name}.bias")
    return z if bias is None else z + bias[:, None]


def chain(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a bias-free chain of dense layers.

    Args:
        widths: Of inputs, hidden layers, output.

    Returns:
        ``0.weight``, ``1.weight``, ... to their shapes.
    """
    pairs = zip(widths[1:], widths, strict=False)
    return {f"{i}.weight": (b, a) for i, (b, a) in enumerate(pairs)}


def chain_forward(depth: int, *, num_relus: int = 0, scalar: bool = True) -> Forward:
    """Return the function of a chain with ReLU after its first hidden layers.

    Args:
        depth: Number of layers.
        num_relus: Hidden layers that are followed by ReLU.
        scalar: Whether the single output is squeezed.

    Returns:
        The function.
    """

    def forward(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        h = x
        for i in range(depth):
            h = affine(params, str(i), h)
            h = h.relu() if i < num_relus else h
        return h.squeeze(-1) if scalar else h

    return forward
