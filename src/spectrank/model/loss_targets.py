"""How outputs and targets meet in a loss: layouts, and what a mean divides by."""

from __future__ import annotations

from torch import Tensor

from spectrank.errors import DomainError, ShapeError


def aligned(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets in the shape and dtype of the outputs of an elementwise loss.

    Args:
        outputs: Any shape.
        targets: The same shape; a trailing axis of one may lack on either side.

    Returns:
        Both, in one shape.

    Raises:
        ShapeError: The shapes differ otherwise.
    """
    # (N, 1) against (N,) would broadcast to (N, N).
    shapes = tuple(outputs.shape), tuple(targets.shape)
    if shapes[0] == (*shapes[1], 1):
        targets = targets.unsqueeze(-1)
    elif shapes[1] == (*shapes[0], 1):
        targets = targets.squeeze(-1)
    elif shapes[0] != shapes[1]:
        raise ShapeError(
            "an elementwise loss needs targets of the outputs' shape "
            f"{shapes[0]}, got {shapes[1]}; pass one-hot or regression targets"
        )
    return outputs, targets.to(outputs.dtype)


def classes_second(
    outputs: Tensor, targets: Tensor, *, strict: bool
) -> tuple[Tensor, Tensor]:
    """Torch's layout (N, C, ...) where the classes may stand last, as for tokens.

    Args:
        outputs: (N, C), (N, C, ...) or (N, ..., C).
        targets: Class indices (N, ...), or probabilities of the outputs' shape.
        strict: Refuse outputs that can be read both ways; torch's reading else.

    Returns:
        Both, as torch's functions take them.

    Raises:
        ShapeError: Both readings fit and ``strict``.
    """
    if targets.is_floating_point() or outputs.ndim < 3:
        return outputs, targets
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    second = (shape[0], *shape[2:]) == wanted
    last = shape[:-1] == wanted
    if second and last and strict:
        raise ShapeError(
            f"outputs {shape} against targets {wanted} must tell where the classes "
            "are, but axis 1 and the last axis both fit; "
            "pass nn.CrossEntropyLoss() for axis 1 or a callable"
        )
    if last and not second:
        return outputs.flatten(0, -2), targets.flatten()
    return outputs, targets


def shifted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of positions 0..T-2 and labels of positions 1..T-1, flattened.

    Args:
        outputs: (N, T, V) logits.
        targets: (N, T) labels.

    Returns:
        (N (T - 1), V) and (N (T - 1),).

    Raises:
        ShapeError: Other shapes.
    """
    if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
        raise ShapeError(
            "causal_cross_entropy needs outputs (N, T, V) and labels (N, T), "
            f"got {tuple(outputs.shape)} and {tuple(targets.shape)}; "
            "use cross_entropy where there is one label per output"
        )
    return outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten()


def class_divisor(
    outputs: Tensor, targets: Tensor, weight: Tensor | None, ignore: int | None
) -> float:
    """What the mean of a loss over classes divides by.

    Args:
        outputs: In torch's layout.
        targets: Class indices, or probabilities.
        weight: (C,) class weights.
        ignore: Index that does not count.

    Returns:
        Number, or sum of weights, of the targets not ignored.
    """
    if targets.is_floating_point():
        # Class probabilities: the mean is over samples, weighted or not.
        return outputs.numel() / outputs.shape[min(1, outputs.ndim - 1)]
    kept = targets[targets != ignore]
    return float(kept.numel() if weight is None else weight[kept].sum())


def num_elements(outputs: Tensor, targets: Tensor) -> float:
    """Number of elements of the outputs."""
    return float(outputs.numel())


def num_rows(outputs: Tensor, targets: Tensor) -> float:
    """Number of rows of the outputs: 1 for (C,), N for (N, C)."""
    return outputs.numel() / outputs.shape[-1]


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """Margins y f of a binary classifier.

    Args:
        outputs: (N,) or (N, 1) values f.
        targets: (N,) or (N, 1) labels y of -1 and +1.

    Returns:
        (N,) or (N, 1) margins.

    Raises:
        ShapeError: More than one output per sample.
        DomainError: Other labels.
    """
    outputs, targets = aligned(outputs, targets)
    if outputs.ndim > 2 or (outputs.ndim == 2 and outputs.shape[1] != 1):
        raise ShapeError(
            "a margin loss needs one output per sample, (N,) or (N, 1), "
            f"got {tuple(outputs.shape)}; use cross_entropy for several classes"
        )
    if not bool((targets.abs() == 1.0).all()):
        raise DomainError(
            "a margin loss needs labels -1 and +1, "
            f"got {sorted(set(targets.flatten().tolist()))[:5]}; map 0 and 1 to them"
        )
    return outputs * targets
