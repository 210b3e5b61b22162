"""What `gradient_flow` refuses, and in which words."""

import math

import pytest
import torch
from kernel_setting import C, M, N

from spectrank.errors import (
    ArgumentTypeError,
    DomainError,
    ShapeError,
    UnknownNameError,
)
from spectrank.ntk.dynamics import gradient_flow


def test_a_loss_without_a_flow_is_refused_before_the_kernel_is_read():
    with pytest.raises(UnknownNameError, match=r"closed form for mse.*got 'huber'"):
        gradient_flow(None, None, None, loss="huber")
    with pytest.raises(UnknownNameError, match=r"'mean' or 'sum'.*got 'none'"):
        gradient_flow(None, None, None, reduction="none")
    with pytest.raises(DomainError, match="factor must be positive"):
        gradient_flow(None, None, None, factor=0.0)
    with pytest.raises(ArgumentTypeError, match="factor is a positive number"):
        gradient_flow(None, None, None, factor="half")


BAD = [
    ({"K": torch.eye(N) * math.nan}, DomainError, "must be finite, got NaN"),
    ({"K": -torch.eye(N)}, DomainError, "positive semi-definite, the smallest"),
    ({"K": torch.ones(N, M)}, ShapeError, "one set of points"),
    ({"labels": torch.tensor([0, 1])}, ShapeError, "one row per sample"),
    ({"times": []}, ShapeError, "a list of at least one"),
    ({"times": [-1.0]}, DomainError, "must not be negative"),
    ({"times": [0.5], "learning_rate": 0.1}, DomainError, "whole numbers of steps"),
    ({"times": [1.0], "learning_rate": -0.1}, DomainError, "must be positive and"),
    ({"initial": torch.zeros(N, 3)}, DomainError, "classes|outputs"),
    ({"initial": torch.zeros(M, C)}, ShapeError, "must be the outputs"),
    ({"initial": torch.full((N, C), math.nan)}, DomainError, "initial must be finite"),
    ({"K_test": torch.ones(M, N + 1)}, ShapeError, r"K_test must be \(m, 4\)"),
    ({"K_test": torch.ones(M, N) * math.inf}, DomainError, "K_test must be finite"),
    ({"labels_test": [1.0]}, ShapeError, "without K_test"),
    ({"loss": "cross_entropy", "times": [math.inf]}, DomainError, "no limit in finite"),
    (
        {"loss": "cross_entropy", "labels": torch.ones(N, C)},
        DomainError,
        "rows of probabilities that sum to one",
    ),
    ({"rtol": 0.0}, DomainError, r"rtol must lie in \(0, 1\)"),
    ({"rtol": "small"}, ArgumentTypeError, "rtol is a number, got str"),
    ({"times": None}, ArgumentTypeError, "times must be real numbers, got NoneType"),
    ({"times": "12"}, ArgumentTypeError, "times must be real numbers, got str"),
    ({"times": iter([1.0])}, ArgumentTypeError, "real numbers, got list_iterator"),
    ({"labels": ["a"] * N}, ArgumentTypeError, "labels must be real numbers, got list"),
    ({"labels": [[1], [1, 2], [1], [1]]}, ArgumentTypeError, "labels must be real"),
    (
        {"labels": torch.ones(N, dtype=torch.complex64)},
        ArgumentTypeError,
        r"a tensor of torch\.complex64",
    ),
    ({"labels": [0, 1, 0, 10**9]}, DomainError, "numbered from 0 without gaps"),
    ({"initial": "zero"}, ArgumentTypeError, "initial must be real numbers, got str"),
    ({"initial": 1.0}, ShapeError, "initial must be the outputs"),
    (
        {"times": [1.0], "learning_rate": "fast"},
        ArgumentTypeError,
        "learning_rate is a number",
    ),
]


@pytest.mark.parametrize(("changed", "error", "words"), BAD)
def test_what_does_not_go_together_is_refused(changed, error, words):
    request = {
        "K": torch.eye(N, dtype=torch.float64),
        "labels": torch.tensor([0, 1, 1, 0]),
        "times": [1.0],
    }
    if getattr(changed.get("initial"), "shape", None) == (N, 3):
        request["labels"] = torch.tensor([0, 1, 3, 0])
    request |= changed
    with pytest.raises(error, match=words):
        gradient_flow(
            request.pop("K"), request.pop("labels"), request.pop("times"), **request
        )
