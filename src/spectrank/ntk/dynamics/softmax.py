r"""Cross-entropy in the kernel regime: one equation for the weights of the samples.

    f(s) = f_0 - M a(s),   da/ds = softmax(f) - y,   s = r size t,   M = K / size

r the rate of the loss. Test points follow from a and cost nothing. There is no closed
form; the solver is LSODA, which turns from Adams to implicit BDF where the modes of the
kernel are stiff. Its workspace is dense, (n c)^2, so that above 4096 outputs in all the
explicit DOP853 takes its place, whose steps are bounded by the stiffest mode.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.integrate import solve_ivp

# Of the tolerance that is relative; a starts at 0.
_ABSOLUTE = 1e-2
# Outputs n c of a dense workspace: 128 MiB, and as much for the Jacobian.
_LARGEST_DENSE = 4096


def solve_weights(
    M: np.ndarray,
    initial: np.ndarray,
    targets: np.ndarray,
    times: np.ndarray,
    rtol: float,
    *,
    largest_dense: int = _LARGEST_DENSE,
) -> tuple[np.ndarray, str | None]:
    """Weights of the samples at increasing times.

    Args:
        M: (N, N), N = n for a kernel that outputs share, n c else.
        initial: (n, c) outputs at the start.
        targets: (n, c) probabilities.
        times: (T,) increasing, s.
        rtol: Relative tolerance of the solver.
        largest_dense: Outputs n c up to which the implicit solver is taken.

    Returns:
        (T, n, c), NaN from where the solver gave up; and its words, None if it did not.
    """
    shape = initial.shape
    found = np.full((len(times), *shape), np.nan)
    if times[-1] == 0.0:
        return np.zeros_like(found), None

    def slope(_: float, a: np.ndarray) -> np.ndarray:
        p = softmax(initial - apply(M, a.reshape(shape)))
        moved: np.ndarray = (p - targets).ravel()
        return moved

    def jacobian(_: float, a: np.ndarray) -> np.ndarray:
        p = softmax(initial - apply(M, a.reshape(shape)))
        return -_curved(p, M)

    dense = initial.size <= largest_dense
    method = {"method": "LSODA", "jac": jacobian} if dense else {"method": "DOP853"}
    with warnings.catch_warnings():
        # Of LSODA; its words are returned.
        warnings.simplefilter("ignore", UserWarning)
        solution = solve_ivp(
            slope,
            (0.0, float(times[-1])),
            np.zeros(initial.size),
            t_eval=times,
            rtol=rtol,
            atol=_ABSOLUTE * rtol,
            **method,
        )
    reached = solution.y.T.reshape(-1, *shape)
    found[: len(reached)] = reached
    return found, None if solution.success else str(solution.message)


def descend_weights(
    M: np.ndarray,
    initial: np.ndarray,
    targets: np.ndarray,
    steps: np.ndarray,
    step_size: float,
) -> np.ndarray:
    """Weights of the samples after whole numbers of steps of gradient descent.

    Args:
        M: (N, N).
        initial: (n, c) outputs at the start.
        targets: (n, c) probabilities.
        steps: (T,) increasing whole numbers.
        step_size: Learning rate times the rate of the loss times the kernel's size.

    Returns:
        (T, n, c).
    """
    a = np.zeros_like(initial)
    found = np.empty((len(steps), *initial.shape))
    done = 0
    for i, until in enumerate(steps.tolist()):
        for _ in range(int(until) - done):
            a = a + step_size * (softmax(initial - apply(M, a)) - targets)
        done = int(until)
        found[i] = a
    return found


def apply(M: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return M a for weights (..., n, c) of samples.

    Args:
        M: (m, n), the same for every output, or (m c, n c).
        a: (..., n, c).

    Returns:
        (..., m, c).
    """
    n, c = a.shape[-2:]
    if M.shape[1] == n:
        product: np.ndarray = M @ a
        return product
    flat = a.reshape(*a.shape[:-2], n * c) @ M.T
    result: np.ndarray = flat.reshape(*a.shape[:-2], -1, c)
    return result


def softmax(f: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis, without overflow.

    Args:
        f: (..., c).

    Returns:
        (..., c).
    """
    e = np.exp(f - f.max(-1, keepdims=True))
    result: np.ndarray = e / e.sum(-1, keepdims=True)
    return result


def _curved(p: np.ndarray, M: np.ndarray) -> np.ndarray:
    """(diag(p) - p p^T) of every sample times the kernel of all outputs."""
    n, c = p.shape
    full = M if M.shape[0] == n * c else np.kron(M, np.eye(c))
    rows = full.reshape(n, c, n * c)
    mean = np.einsum("ai,aij->aj", p, rows)
    result: np.ndarray = p[:, :, None] * (rows - mean[:, None, :])
    return result.reshape(n * c, n * c)
