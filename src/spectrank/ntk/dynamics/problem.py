"""A checked request for a training curve: everything is refused before the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from spectrank.errors import DomainError, ShapeError
from spectrank.linalg.ensembles.requests import check_number
from spectrank.ntk.dynamics.convention import Convention
from spectrank.ntk.kernel_matrix import (
    KernelMatrix,
    as_numbers,
    check_kernel,
    flatten,
    target_outputs,
)

_LARGEST_STEPS = 2**53


@final
@dataclass(frozen=True, eq=False)
class Test:
    """Test points of a training curve.

    Attributes:
        matrix: (m, n) or (m c, n c), over the size of the kernel.
        initial: (m, c).
        targets: (m, c); None without labels.
    """

    __test__ = False

    matrix: Tensor
    initial: Tensor
    targets: Tensor | None


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be predicted.

    Attributes:
        kernel: On the training points.
        targets: (n, c).
        initial: (n, c).
        times: (T,).
        learning_rate: Of gradient descent; None for the flow.
        convention: Of the loss.
        test: Test points, if any.
    """

    kernel: KernelMatrix
    targets: Tensor
    initial: Tensor
    times: Tensor
    learning_rate: float | None
    convention: Convention
    test: Test | None

    @property
    def rate(self) -> float:
        """What multiplies f - y in the gradient of the loss."""
        n, c = self.targets.shape
        return self.convention.rate(n, c)

    @property
    def scale(self) -> float:
        """What all kernels are divided by; 1 for a zero kernel."""
        return self.kernel.size or 1.0

    def test_losses(self, outputs: Tensor | None) -> Tensor | None:
        """Return losses of the test points, where they have labels.

        Args:
            outputs: (T, m, c).

        Returns:
            (T,) or None.
        """
        if outputs is None or self.test is None or self.test.targets is None:
            return None
        return self.convention.value(outputs, self.test.targets)


def make_problem(
    kernel: KernelMatrix,
    labels: Any,
    times: Any,
    *,
    convention: Convention,
    initial: Tensor | None,
    K_test: Tensor | None,
    initial_test: Tensor | None,
    labels_test: Any,
    learning_rate: float | None,
) -> Problem:
    """Check that kernels, labels, outputs and times go together.

    Args:
        kernel: On the training points, checked.
        labels: As given.
        times: As given.
        convention: Of the loss.
        initial: As given.
        K_test: As given.
        initial_test: As given.
        labels_test: As given.
        learning_rate: As given.

    Returns:
        The request.

    Raises:
        ArgumentTypeError: If what should be numbers are none.
        ShapeError: If they do not.
        DomainError: If a value lies outside its range.
    """  # noqa: DOC502 - raised by the functions called
    n, device = kernel.num_samples, kernel.matrix.device
    c = kernel.num_outputs
    initial = _numbers("initial", initial, device)
    initial_test = _numbers("initial_test", initial_test, device)
    if c is None and initial is not None and initial.shape[:1] == (n,):
        c = initial.reshape(n, -1).shape[1]
    targets = target_outputs(labels, n, c, device)
    _check_probabilities(targets, convention)
    shape = (n, targets.shape[1])
    start = _outputs("initial", initial, shape, device)
    test = None
    if K_test is not None:
        test = _test(kernel, K_test, initial_test, labels_test, shape[1])
        if test.targets is not None:
            _check_probabilities(test.targets, convention)
    elif initial_test is not None or labels_test is not None:
        raise ShapeError(
            "test points need their kernel with the training points, got initial_test "
            "or labels_test without K_test; pass K_test=empirical(model, x_test, x)"
        )
    moments = _times(times, convention, learning_rate, device)
    return Problem(kernel, targets, start, moments, learning_rate, convention, test)


def _numbers(name: str, given: Any, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    return as_numbers(name, given, "model(x)", device).to(torch.float64)


def _outputs(
    name: str, given: Tensor | None, shape: tuple[int, int], device: torch.device
) -> Tensor:
    if given is None:
        return torch.zeros(shape, dtype=torch.float64, device=device)
    f = given[:, None] if given.ndim == 1 else given
    if f.shape != shape:
        raise ShapeError(
            f"{name} must be the outputs {shape} at the start, got {tuple(f.shape)}; "
            "pass model(x) of the same points"
        )
    if not bool(torch.isfinite(f).all()):
        raise DomainError(
            f"{name} must be finite, got NaN or inf among the outputs; look at the "
            "model before it is trained"
        )
    return f


def _test(
    kernel: KernelMatrix,
    K_test: Tensor,
    initial: Tensor | None,
    labels: Any,
    num_outputs: int,
) -> Test:
    check_kernel(K_test, name="K_test")
    n, c = kernel.num_samples, kernel.num_outputs
    tail = () if c is None else (c, c)
    if K_test.shape[1:] != (n, *tail):
        raise ShapeError(
            f"K_test must be (m, {', '.join(str(k) for k in (n, *tail))}), test points "
            f"first, beside that kernel, got {tuple(K_test.shape)}; pass "
            "empirical(model, x_test, x_train) with the same outputs="
        )
    matrix = flatten(K_test).to(kernel.matrix.device)
    if not bool(torch.isfinite(matrix).all()):
        raise DomainError(
            "K_test must be finite, got NaN or inf among its entries; look at the "
            "model's outputs on the test points"
        )
    m, device = K_test.shape[0], kernel.matrix.device
    start = _outputs("initial_test", initial, (m, num_outputs), device)
    targets = None
    if labels is not None:
        targets = target_outputs(labels, m, num_outputs, device)
    return Test(matrix / (kernel.size or 1.0), start, targets)


def _check_probabilities(targets: Tensor, convention: Convention) -> None:
    if convention.loss != "cross_entropy":
        return
    sums = targets.sum(1)
    if bool((targets < 0.0).any()) or bool(((sums - 1.0).abs() > 1e-6).any()):
        raise DomainError(
            "cross-entropy takes classes or rows of probabilities that sum to one, got "
            f"rows that sum to {float(sums.min()):.6g} to {float(sums.max()):.6g}; "
            "pass whole numbers, one class for each sample"
        )


def _times(
    times: Tensor | Sequence[float],
    convention: Convention,
    learning_rate: float | None,
    device: torch.device,
) -> Tensor:
    t = as_numbers("times", times, "such as torch.linspace(0, 10, 101)", device)
    t = t.to(torch.float64)
    if t.ndim != 1 or len(t) == 0:
        raise ShapeError(
            f"times must be a list of at least one, got shape {tuple(t.shape)}; e.g. "
            "torch.linspace(0, 10, 101)"
        )
    if not bool((t >= 0.0).all()):
        raise DomainError(
            f"times must not be negative or NaN, got {float(t.min())}; training "
            "starts at 0"
        )
    if learning_rate is not None:
        way_out = "leave it out for the continuous flow"
        check_number("learning_rate", learning_rate, way_out)
        if not 0.0 < learning_rate < math.inf:
            raise DomainError(
                "learning_rate must be positive and finite, got "
                f"{learning_rate}; {way_out}"
            )
        if not bool(((t == t.round()) & (t < _LARGEST_STEPS)).all()):
            raise DomainError(
                "times are whole numbers of steps with a learning_rate, got "
                f"{t.tolist()[:5]}; leave learning_rate out for the continuous flow"
            )
    if convention.loss == "cross_entropy" and bool(torch.isinf(t).any()):
        raise DomainError(
            "the flow of cross-entropy has no limit in finite outputs, got a time of "
            "inf; ask for a finite one"
        )
    return t
