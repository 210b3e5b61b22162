"""Which losses see differences of logits only, and which axis the logits lie along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn import functional

from spectrank.invariance.linear.shifts import Shift, Shifts, as_potential, ranked
from spectrank.invariance.potentials.moves import compressed
from spectrank.model import describe_loss
from spectrank.model.losses import Loss

LossLike = str | nn.Module | Callable[..., Any]
# Softmax cross-entropy, and the margins x[y] - x[i].
_DIFFERENCES = frozenset(
    {
        "cross_entropy",
        "causal_cross_entropy",
        "CrossEntropyLoss",
        "MultiMarginLoss",
        "MultiLabelMarginLoss",
    }
)
_MARGINS: tuple[object, ...] = (
    functional.multi_margin_loss,
    functional.multilabel_margin_loss,
)


def sees_differences(loss: LossLike | None) -> bool | None:
    """Whether adding one number to all logits of a sample leaves a loss unchanged.

    So it is with softmax cross-entropy, with weights and label smoothing too, and with
    multi-class margins. A log softmax inside the model is a step of the model.
    Source (derived): tests/invariance/linear/test_losses.py, by adding a number.

    Args:
        loss: Name, module or function, as ``spectrank.model.describe_loss`` takes it;
            None for any loss.

    Returns:
        The answer; None of a loss that is not known.

    Raises:
        UnknownNameError: No loss has that name.
    """  # noqa: DOC502 - raised by the functions called
    if loss is None:
        return False
    if loss in _MARGINS:
        return True
    # The name of the module is a name of the loss too.
    found = describe_loss("cross_entropy" if loss == "CrossEntropyLoss" else loss)
    return found.name in _DIFFERENCES if isinstance(found, Loss) else None


def class_axis(shape: tuple[int, ...] | None, shifts: Shifts) -> int | None:
    """Axis of the classes of an output.

    In rank two the last; in higher rank, where sequences have (samples, positions,
    classes) and images (samples, classes, rows, columns), the one along which the
    features of the last layer lie. Numbers of samples are no classes, nor is one logit.

    Args:
        shape: Of the output.
        shifts: How far it moves.

    Returns:
        Counted from the end; None where there are no classes.
    """
    if shape is None or len(shape) < 2:
        return None
    rank = len(shape)
    if rank == 2:
        axes = {-1}
    else:
        moved = [ranked(shift, rank) for shift in shifts.values()]
        axes = {a for shift in moved for a in _unseen(shift, shape)}
        axes = axes or {a for shift in moved for a in _alone(shift)}
    axis = min(axes, default=0)
    return axis if len(axes) == 1 and axis > -rank and shape[axis] > 1 else None


def _unseen(shift: Shift, shape: tuple[int, ...]) -> list[int]:
    """Axes along which a source of a weight, such as its inputs, does not vary."""
    slots = shift.slots
    if slots is None:
        return []
    sizes = compressed(as_potential(slots)).shape
    if max(sizes) == 1:
        # A factor that is one number tells nothing.
        return []
    return [i - len(shape) for i, n in enumerate(shape) if n > 1 == sizes[i]]


def _alone(shift: Shift) -> list[int]:
    """The axis along which a bias varies, if it does along no other."""
    sizes = compressed(shift.value).shape
    varying = [axis - len(sizes) for axis, size in enumerate(sizes) if size > 1]
    return varying if len(varying) == 1 else []
