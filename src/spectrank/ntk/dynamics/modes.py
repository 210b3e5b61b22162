r"""Mean squared error in closed form: every eigenmode of the kernel by itself.

    f(t)  = y + V e(t) V^T (f_0 - y),           e_i = exp(-r lambda_i t)
    f*(t) = f*_0 - K* V g(t) V^T (f_0 - y),     g_i = (1 - e_i) / lambda_i

r the rate of the loss, * the test points; after k steps of gradient descent
e_i = (1 - learning_rate r lambda_i)^k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flow_factors(values: Tensor, times: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Decay of the modes of a continuous flow, and what reaches the test points.

    Args:
        values: (N,) eigenvalues, at least 0.
        times: (T,) times the rate; inf for the limit, in which modes of eigenvalues at
            or below ``floor`` stay where they are.
        floor: What rounding can make of a zero eigenvalue.

    Returns:
        e and g, (T, N) each.
    """
    ending = torch.isinf(times)
    finite = torch.where(ending, 0.0, times)
    x = finite[:, None] * values
    decay = torch.exp(-x)
    # (1 - e^-x) / x, which is 1 at 0 and exact for small x.
    share = torch.where(x > 0.0, -torch.expm1(-x) / torch.where(x > 0.0, x, 1.0), 1.0)
    reach = finite[:, None] * share
    if bool(ending.any()):
        resolved = values > floor
        decay[ending] = (~resolved).to(values.dtype)
        reach[ending] = torch.where(resolved, 1.0 / values, 0.0)
    return decay, reach


def step_factors(values: Tensor, steps: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Decay of the modes under gradient descent, and what reaches the test points.

    Args:
        values: (N,) eigenvalues, at least 0.
        steps: (T,) whole numbers.
        rate: Learning rate times the rate of the loss.

    Returns:
        e and g, (T, N) each.
    """
    x = rate * values
    k = steps[:, None]
    decay = torch.pow(1.0 - x, k)
    # 1 - (1 - x)^k cancels for small x; log1p and expm1 do not.
    gentle = x < 0.5
    logs = torch.log1p(-torch.where(gentle, x, 0.0))
    gap = torch.where(gentle, -torch.expm1(k * logs), 1.0 - decay)
    reach = torch.where(x > 0.0, gap / torch.where(x > 0.0, values, 1.0), k * rate)
    return decay, reach
