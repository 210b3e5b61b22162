r"""Full-batch gradient descent of many networks, and what their kernels predict.

Squares: L = |f - y|^2 / N. One step of gradient descent in the kernel regime takes the
residual r = f - y to (1 - (2 eta / N) K) r, K the kernel at the start: kernel flow at
the times 0, eta, 2 eta, ..., for small steps exp(-2 eta K t / N) r.

M networks    N inputs    T losses, the first before any step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.experiments.georgiev2021stable.kernel.nets import Net
from spectrank.experiments.georgiev2021stable.kernel.observables import (
    kernel_matrices,
    outputs,
)
from spectrank.experiments.images import Images
from spectrank.train import SGD, train_fleet
from spectrank.train.fleet.threads import single_threaded


@final
@dataclass(frozen=True)
class Halves:
    """Images with the target -1 for the first five classes, 1 for the other five.

    Attributes:
        data: Name of the data set.
        num_inputs: N.
    """

    data: str
    num_inputs: int

    @cached_property
    def images(self) -> Images:
        """Centred images of length sqrt(d)."""
        return Images(self.data, self.num_inputs, 1)

    @property
    def inputs(self) -> Tensor:
        """(N, d) float32."""
        return self.images.train.inputs.float()

    @property
    def targets(self) -> Tensor:
        """(N,) float64, -1 or 1."""
        return torch.where(self.images.train.labels < 5, -1.0, 1.0).double()

    def text(self) -> str:
        """Return what is learned in words, for a claim's protocol.

        Returns:
            A clause.
        """
        return (
            f"{self.num_inputs} training images of {self.data}, centred, each of "
            "length sqrt(d), classes 0-4 against 5-9 by squares, from residuals of 1"
        )

    @property
    def sha256(self) -> Mapping[str, str]:
        """Checksums of the files."""
        return self.images.sha256


@final
@dataclass(frozen=True, eq=False)
class Start:
    """Networks before training.

    Attributes:
        net: Their law.
        weights: L tensors (M, m, n), float64.
        outputs: (M, N).
        eigenvalues: (M, N) of K, ascending.
        eigenvectors: (M, N, N), in columns.
    """

    net: Net
    weights: Sequence[Tensor]
    outputs: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor


def start(net: Net, halves: Halves, num: int, generator: torch.Generator) -> Start:
    """Draw networks and their kernels.

    Args:
        net: Their law; one output.
        halves: What they see.
        num: M.
        generator: Source of randomness.

    Returns:
        The networks.
    """
    # One thread: a QR or an eigensolver on several may round otherwise.
    with single_threaded(torch.device("cpu")):
        weights = net.random().sample_weights(generator, num=num)
        x = halves.inputs.double()
        found = torch.linalg.eigh(kernel_matrices(weights, x))
        return Start(net, weights, outputs(weights, x)[..., 0], *found)


def predicted_losses(
    own: Start, halves: Halves, rates: Tensor, num_losses: int
) -> np.ndarray:
    """Losses of gradient descent with the kernel of the start.

    The residual at the start is minus the targets, as `descend` sees to.

    Args:
        own: Networks; of them the kernels alone are used.
        halves: For the targets.
        rates: (M,) learning rates.
        num_losses: T.

    Returns:
        (M, T).
    """
    y = halves.targets
    shares = (own.eigenvectors.mT @ y).square() / len(y)
    factors = 1.0 - 2.0 * rates[:, None] / len(y) * own.eigenvalues
    times = torch.arange(num_losses, dtype=torch.float64)
    powers = factors.square()[..., None] ** times
    return (shares[..., None] * powers).sum(1).numpy()


def descend(
    own: Start,
    halves: Halves,
    rates: Tensor,
    num_losses: int,
    *,
    until: float | None = None,
) -> np.ndarray:
    """Train the networks, each to its own outputs plus the targets.

    So the residual is minus the targets, whatever the outputs at the start: otherwise
    the scale of the weights would change what is to be learned too.

    Args:
        own: Networks.
        halves: Inputs and targets.
        rates: (M,) learning rates.
        num_losses: T.
        until: Loss below which a network stops; None for none.

    Returns:
        (M, T) losses, NaN where a network had stopped.
    """
    num, (size, dimension) = len(rates), halves.inputs.shape
    net = own.net.random()
    weights = (W.float() for W in own.weights)
    result = train_fleet(
        net.sample(torch.Generator()).to_empty(device="cpu"),
        dict(zip(net.parameter_names, weights, strict=True)),
        halves.inputs.expand(num, size, dimension),
        (own.outputs + halves.targets).float().unsqueeze(-1),
        optimizer=SGD(learning_rate=rates.tolist()),
        max_steps=num_losses,
        loss="mse",
        dataset=range(num),
        target_loss=until,
        smoothing=0.0,
    )
    losses = np.full((num, num_losses), np.nan)
    losses[:, : len(result.losses)] = result.losses.T
    return losses


def log_steps(losses: np.ndarray, level: float) -> np.ndarray:
    """Log of the steps until the loss is a share of its first value.

    Between two steps the loss is taken to be exponential.

    Args:
        losses: (M, T).
        level: The share, in (0, 1).

    Returns:
        (M,); NaN where it was not reached.
    """
    found = np.full(len(losses), np.nan)
    for i, row in enumerate(losses):
        logs = np.log(row / row[0] / level)
        below = np.flatnonzero(logs < 0.0)
        if len(below):
            k = int(below[0])
            found[i] = np.log(k - 1 + logs[k - 1] / (logs[k - 1] - logs[k]))
    return found
