r"""What a loss sums and what it divides by.

A per-sample derivative needs the *sum* of a loss over its samples; training mostly uses
a mean. With S the sum-reduced loss and M the loss as trained,

    S = factor * M,    grad S = factor * grad M.

The factor is N for a mean over samples, N * d_out for PyTorch's elementwise means
(``MSELoss`` divides by the output dimension too), the number of targets that are not
ignored, or the sum of their class weights, for ``CrossEntropyLoss``. It depends on the
batch where targets are ignored or weighted. Label smoothing and weights stay inside S.
Source (derived): tests/model/test_losses.py, autograd of both sides for every entry.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectrank.errors import DomainError, UnknownNameError
from spectrank.model.loss_targets import (
    aligned,
    class_divisor,
    classes_second,
    margins,
    num_elements,
    num_rows,
    shifted,
)

Reduction = Literal["mean", "sum", "batchmean", "none"]
_Function = Callable[[Tensor, Tensor], Tensor]

_NOT_REDUCED = "the values are not reduced"
_SAMPLES = "number of samples"
_ELEMENTS = "number of elements (samples times outputs)"
_TARGETS = "number of targets not ignored"
_WEIGHTS = "sum of the class weights of the targets not ignored"


@dataclass(frozen=True)
class Loss:
    """A loss whose reduction is known.

    Attributes:
        name: Name or class name.
        reduction: As trained.
        factor: In words, what the loss as trained is to be multiplied by to give
            ``sum_loss``.
        ignore_index: Target that contributes nothing; None where there is none.
        sum_loss: Maps outputs and targets to the scalar sum over samples.
        divisor: Maps outputs and targets to the factor, for the reduction as trained.
    """

    name: str
    reduction: Reduction
    factor: str
    ignore_index: int | None
    sum_loss: _Function = field(repr=False, compare=False)
    divisor: Callable[[Tensor, Tensor], float] = field(repr=False, compare=False)

    def mean_factor(self, outputs: Tensor, targets: Tensor) -> float:
        """Return ``sum_loss`` divided by the loss as trained, on this batch.

        1 for a loss that is summed already; 0 where every target is ignored (the mean
        is then nan).

        Args:
            outputs: Of the model, as the loss takes them.
            targets: As the loss takes them.

        Returns:
            The factor.

        Raises:
            DomainError: The loss is not reduced, so there is no factor.
        """
        if self.reduction == "none":
            raise DomainError(
                "a loss must be reduced to have a factor, "
                f"{self.name} has reduction='none'; use reduction='mean' or 'sum'"
            )
        return self.divisor(outputs, targets)


@dataclass(frozen=True)
class UnknownLoss:
    """A loss whose reduction is not known; nothing is guessed.

    Attributes:
        name: Class or function name.
        reason: Why, with the way out.
    """

    name: str
    reason: str


def describe_loss(
    loss: str | nn.Module | Callable[..., Tensor],
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Loss | UnknownLoss:
    """Reduction of a loss, its sum over samples and the factor between the two.

    Args:
        loss: A name (``LOSS_NAMES``), an ``nn`` loss of exactly one of the known
            classes, or a function of ``torch.nn.functional`` with its default options.
        reduction: How a loss given by name or function is trained; a module tells.

    Returns:
        The description; ``UnknownLoss`` for subclasses, other callables, and losses
        that take more than outputs and targets.

    Raises:
        UnknownNameError: No loss has that name.

    Example:
        >>> loss = describe_loss(torch.nn.MSELoss())
        >>> loss.mean_factor(torch.zeros(8, 3), torch.ones(8, 3))
        24.0
        >>> describe_loss(torch.nn.TripletMarginLoss()).name
        'TripletMarginLoss'
    """  # noqa: DOC502 - raised by the functions called
    if isinstance(loss, str):
        return _by_name(loss, reduction)
    if isinstance(loss, nn.Module):
        return _by_module(loss, type(loss).__name__, strict=False)
    name = _FUNCTIONS.get(loss)
    if name is not None:
        return _by_name(name, reduction)
    label = getattr(loss, "__qualname__", type(loss).__name__)
    return UnknownLoss(
        label,
        f"{label} is no loss of torch.nn, so what it divides by is unknown; "
        "pass a callable that returns the sum over samples where one is taken",
    )


def _by_name(name: str, reduction: Reduction) -> Loss | UnknownLoss:
    if name in _MARGINS:
        return Loss(
            name,
            reduction,
            "1" if reduction == "sum" else _SAMPLES,
            None,
            _MARGINS[name],
            (lambda o, t: 1.0) if reduction == "sum" else num_elements,
        )
    if name == "causal_cross_entropy":
        inner = _by_module(nn.CrossEntropyLoss(reduction=reduction), name, strict=True)
        assert isinstance(inner, Loss)
        return Loss(
            name,
            reduction,
            inner.factor,
            inner.ignore_index,
            lambda o, t: inner.sum_loss(*shifted(o, t)),
            lambda o, t: inner.divisor(*shifted(o, t)),
        )
    if name not in _MODULES:
        raise UnknownNameError(
            f"a loss must be one of {', '.join(LOSS_NAMES)}, got {name!r}; "
            "pass an nn loss or a callable for another one"
        )
    return _by_module(_MODULES[name](reduction=reduction), name, strict=True)


def _by_module(loss: nn.Module, name: str, *, strict: bool) -> Loss | UnknownLoss:
    kind = type(loss)
    if kind not in _ELEMENTWISE | _PER_SAMPLE | _CLASSES:
        return UnknownLoss(name, _unknown_reason(kind))
    summed = copy.copy(loss)
    # The copy shares everything with the user's module but this attribute.
    vars(summed)["reduction"] = "sum"
    reduction = cast(Reduction, loss.reduction)
    weight = getattr(loss, "weight", None)
    ignore = cast(int, loss.ignore_index) if kind in _CLASSES else None
    divide: Callable[[Tensor, Tensor], float]
    arrange: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    if kind in _CLASSES:
        words = _TARGETS if weight is None else _WEIGHTS
        arrange = lambda o, t: classes_second(o, t, strict=strict)  # noqa: E731
        divide = lambda o, t: class_divisor(o, t, weight, ignore)  # noqa: E731
    elif kind in _PER_SAMPLE:
        words, divide, arrange = _SAMPLES, num_rows, _as_given
    else:
        words, divide, arrange = _ELEMENTS, num_elements, aligned
    if reduction == "batchmean":
        words, divide = _SAMPLES, lambda o, t: float(o.shape[0])
    if reduction in {"sum", "none"}:
        words = "1" if reduction == "sum" else _NOT_REDUCED
        divide = lambda o, t: 1.0  # noqa: E731
    return Loss(
        name,
        reduction,
        words,
        ignore,
        lambda o, t: cast(Tensor, summed.forward(*arrange(o, t))),
        lambda o, t: divide(*arrange(o, t)),
    )


def _unknown_reason(kind: type[nn.Module]) -> str:
    name = kind.__name__
    if kind in _OTHER_ARGUMENTS:
        return (
            f"{name} takes more than outputs and targets; "
            "pass a callable that returns its sum where one is taken"
        )
    known = _ELEMENTWISE | _PER_SAMPLE | _CLASSES
    base = next((b.__name__ for b in kind.__mro__ if b in known), None)
    what = f"a subclass of {base} that may change it" if base else "no loss of torch.nn"
    return (
        f"{name} is {what}, so what it divides by is unknown; "
        "pass a callable that returns the sum over samples where one is taken"
    )


def _as_given(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return outputs, targets


_MARGINS: dict[str, _Function] = {
    "logistic": lambda o, t: F.softplus(-margins(o, t)).sum(),
    "exponential": lambda o, t: torch.exp(-margins(o, t)).sum(),
}
_MODULES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss,
    "nll": nn.NLLLoss,
    "mse": nn.MSELoss,
    "l1": nn.L1Loss,
    "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "bce": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
}
LOSS_NAMES = (*_MODULES, *_MARGINS, "causal_cross_entropy")
"""Every name that ``describe_loss`` takes. ``logistic`` and ``exponential`` are
``log(1 + exp(-y f))`` and ``exp(-y f)`` for labels y of -1 and +1;
``causal_cross_entropy`` compares position t with label t + 1."""

_FUNCTIONS: dict[object, str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll",
    F.mse_loss: "mse",
    F.l1_loss: "l1",
    F.smooth_l1_loss: "smooth_l1",
    F.huber_loss: "huber",
    F.binary_cross_entropy: "bce",
    F.binary_cross_entropy_with_logits: "bce_with_logits",
}

_CLASSES: frozenset[type[nn.Module]] = frozenset({nn.CrossEntropyLoss, nn.NLLLoss})
_ELEMENTWISE: frozenset[type[nn.Module]] = frozenset(
    {
        nn.MSELoss,
        nn.L1Loss,
        nn.SmoothL1Loss,
        nn.HuberLoss,
        nn.BCELoss,
        nn.BCEWithLogitsLoss,
        nn.KLDivLoss,
        nn.PoissonNLLLoss,
        nn.SoftMarginLoss,
        nn.HingeEmbeddingLoss,
    }
)
_PER_SAMPLE: frozenset[type[nn.Module]] = frozenset(
    {nn.MultiMarginLoss, nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss}
)
_OTHER_ARGUMENTS: frozenset[type[nn.Module]] = frozenset(
    {
        nn.CosineEmbeddingLoss,
        nn.CTCLoss,
        nn.GaussianNLLLoss,
        nn.MarginRankingLoss,
        nn.TripletMarginLoss,
        nn.TripletMarginWithDistanceLoss,
        nn.AdaptiveLogSoftmaxWithLoss,
    }
)
