"""What the closed forms of deep linear networks take from data.

X  inputs (N, d)      Y  targets (N, c)      L  layers
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.shapes import Float64


def mse_weight_decay(weight_decay: float, num_outputs: int) -> float:
    """Return the lambda of this module for ``MSELoss()`` trained with weight decay.

    w d_out / 2, as that loss divides by N d_out and has no factor 1/2.
    Source (derived): tests/collapse/forecasting/test_collapse_deep_linear.py.

    Args:
        weight_decay: Coefficient w in (w/2) ||W||^2, as ``SGD`` has it.
        num_outputs: d_out.

    Returns:
        lambda.
    """
    return weight_decay * num_outputs / 2.0


def linear_modes(
    inputs: Tensor, targets: Tensor, *, rtol: float = 1e-6
) -> Float64[Tensor, " k"]:
    r"""Singular values of :math:`\frac1N Y X^T` for whitened inputs.

    Args:
        inputs: (N, d), whitened: the second moment X^T X / N is the identity.
        targets: (N, c).
        rtol: Largest entry of the second moment less the identity.

    Returns:
        (min(c, d),) descending.

    Raises:
        ShapeError: The shapes do not fit.
        DomainError: The inputs are not whitened.
    """  # noqa: DOC502 - raised by the function called
    x, y = _pair(inputs, targets)
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    error = float((x.mT @ x / len(x) - identity).abs().max())
    if not error <= rtol:
        raise DomainError(
            "the closed form needs whitened inputs, X^T X / N = I, got a second moment "
            f"{error:.1e} away from it; whiten the inputs or use forecast"
        )
    modes: Tensor = torch.linalg.svdvals(y.mT @ x / len(x))
    return modes


def interpolation_limit(
    inputs: Tensor, targets: Tensor, num_layers: int
) -> Float64[Tensor, " k"]:
    r"""Singular values of every layer as the weight decay goes to zero.

    :math:`\sigma_i(Y X^+)^{1/L}`: the layers of least norm among those that fit the
    targets (in the sense of least squares). Any inputs, not only whitened ones; hidden
    widths at least the rank. With class labels at most K of them are not zero.
    Source (derived): tests/collapse/forecasting/test_collapse_deep_linear.py.

    Args:
        inputs: (N, d).
        targets: (N, c).
        num_layers: L, at least 1.

    Returns:
        (min(c, d),) descending; directions below the rounding of Y X^+ are 0.

    Raises:
        DomainError: ``num_layers`` is less than 1.
    """
    if num_layers < 1:
        raise DomainError(
            f"num_layers must be at least 1, got {num_layers}; count the weights"
        )
    x, y = _pair(inputs, targets)
    sigma = torch.linalg.svdvals(torch.linalg.pinv(x) @ y)
    # The root of order L would lift rounding, 1e-16, to 1e-16^(1/L).
    floor = max(x.shape) * torch.finfo(x.dtype).eps * sigma[0]
    return torch.where(sigma > floor, sigma, 0.0) ** (1.0 / num_layers)


def _pair(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
        raise ShapeError(
            "inputs (N, d) and targets (N, c) must be matrices with one row a sample, "
            f"got {tuple(inputs.shape)} and {tuple(targets.shape)}; flatten the inputs "
            "and pass one-hot or regression targets"
        )
    return inputs.detach().to(torch.float64), targets.detach().to(torch.float64)
