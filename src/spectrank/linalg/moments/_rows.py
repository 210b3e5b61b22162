"""What a user hands in, checked; and how many rows are worked on at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError

# A tile of float64 rows; an accumulator keeps about three of them. 2 MiB stays near
# the second-level cache; a device dislikes many small steps.
_CPU_TILE_BYTES = 2 << 20
_DEVICE_TILE_BYTES = 32 << 20
# A product passes over its whole total, so it wants rows enough to pay for that: a
# batch of 128 for a (1024, 1024) total took 13.5 ms in tiles of 128 rows, 10.0 ms in
# tiles of 512.
_PRODUCT_ROWS = 512
_PRODUCT_TILE_BYTES = 16 << 20
# A column of more rows would be summed with an error that grows with its length.
_MAX_TILE_ROWS = 1024


def tile_rows(dim: int, device: torch.device, *, products: bool = False) -> int:
    """Number of rows of ``dim`` float64 entries worked on at a time, at least one.

    Args:
        dim: Number of columns.
        device: Where they live.
        products: Whether a step multiplies rows into a matrix.

    Returns:
        The number of rows of a tile.
    """
    size = _CPU_TILE_BYTES if device.type == "cpu" else _DEVICE_TILE_BYTES
    if products:
        size = max(size, min(_PRODUCT_ROWS * 8 * dim, _PRODUCT_TILE_BYTES))
    return min(max(size // (8 * dim), 1), _MAX_TILE_ROWS)


def tiles(num_rows: int, dim: int, device: torch.device) -> Iterator[slice]:
    """Consecutive slices that cover ``num_rows`` rows of ``dim`` entries."""
    step = tile_rows(dim, device)
    return (slice(i, min(i + step, num_rows)) for i in range(0, num_rows, step))


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Outside the caller's autograd, inference and autocast modes.

    A tensor made under inference mode could not be updated after it, and autocast
    would run the float32 products in bfloat16.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def positive(name: str, value: int) -> int:
    """Return a count or dimension that is an integer of at least one.

    Args:
        name: Argument's name, for the message.
        value: What was given.

    Returns:
        The value.

    Raises:
        ArgumentTypeError: It is not an integer.
        DomainError: It is below one.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(
            f"{name} must be an int, got {type(value).__name__}; "
            f"pass a plain integer such as {name}=10"
        )
    if value < 1:
        raise DomainError(
            f"{name} must be at least 1, got {value}; "
            "leave the accumulator out where there is nothing to accumulate"
        )
    return value


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return an option that is one of the allowed words.

    Args:
        name: Argument's name, for the message.
        value: What was given.
        allowed: The words.

    Returns:
        The value.

    Raises:
        DomainError: It is none of them.
    """
    if value not in allowed:
        raise DomainError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}; "
            f"pass for instance {name}={allowed[0]!r}"
        )
    return value


def check_rows(name: str, rows: Tensor, dim: int) -> Tensor:
    """Return rows that can be accumulated, detached.

    Args:
        name: Argument's name, for the messages.
        rows: What was given.
        dim: Number of columns expected.

    Returns:
        (N, dim) real floating-point tensor.

    Raises:
        ArgumentTypeError: Not a tensor.
        DomainError: Not real floating-point and strided.
        ShapeError: Not (N, dim).
    """
    if not isinstance(rows, Tensor):
        raise ArgumentTypeError(
            f"{name} must be a torch.Tensor, got {type(rows).__name__}; "
            "convert first, e.g. torch.as_tensor(rows)"
        )
    if not rows.is_floating_point() or rows.layout != torch.strided:
        raise DomainError(
            f"{name} must be real floating-point and dense, got {rows.dtype} "
            f"({rows.layout}); convert first, e.g. rows.double()"
        )
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ShapeError(
            f"{name} must have shape (N, {dim}), got {tuple(rows.shape)}; "
            f"flatten samples to rows, e.g. rows.reshape(-1, {dim})"
        )
    return rows.detach()


def check_labels(
    labels: Tensor, num_rows: int, num_classes: int, ignore_label: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return integer labels and which rows to keep, None for all.

    Args:
        labels: What was given.
        num_rows: Number of rows that they belong to.
        num_classes: Labels lie in ``[0, num_classes)``.
        ignore_label: Label of rows that take no part, in or out of that range.

    Returns:
        (N,) int64 labels, and an (N,) bool mask or None.

    Raises:
        ArgumentTypeError: Not a tensor.
        DomainError: Not of an integer dtype, or a label out of range.
        ShapeError: Not (N,).
    """
    if not isinstance(labels, Tensor):
        raise ArgumentTypeError(
            f"labels must be a torch.Tensor, got {type(labels).__name__}; "
            "convert first, e.g. torch.as_tensor(labels)"
        )
    if (
        labels.is_floating_point()
        or labels.is_complex()
        or (labels.dtype == torch.bool)
    ):
        raise DomainError(
            f"labels must be class numbers of an integer dtype, got {labels.dtype}; "
            "class statistics are not defined for soft labels: use labels.argmax(1)"
        )
    if labels.ndim != 1 or labels.shape[0] != num_rows:
        raise ShapeError(
            f"labels must have shape ({num_rows},), one for each row, "
            f"got {tuple(labels.shape)}; reshape both alike"
        )
    labels = labels.detach().to(torch.int64)
    kept = None
    if ignore_label is not None:
        kept = labels != ignore_label
        labels = labels[kept]
    if labels.numel():
        low, high = (int(x) for x in torch.stack(torch.aminmax(labels)).tolist())
        if low < 0 or high >= num_classes:
            raise DomainError(
                f"labels must lie in [0, {num_classes}), got "
                f"{low if low < 0 else high}; raise num_classes, or name the label of "
                "rows to skip as ignore_label"
            )
    return labels, kept
