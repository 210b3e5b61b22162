"""Where the samples, positions and features of a layer's tensors are.

    N  samples        T  positions of a sequence        P  positions of an image
    d  features       C  channels

A row is one position of one sample, in the memory order of the axes that are left when
the feature axis is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence

from spectrank.errors import DomainError, ShapeError

_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Samples:
    """What a batch tells of its samples; shared by the records of its layers.

    Attributes:
        num_samples: N; None where the batch does not tell.
        labels: Integer targets (N,), or one per position (N, T) or (N, ...); None else.
        mask: (N, T), True at positions that are no padding; None where all are real.
        ignore_index: Label that means none.
        either_order: Some part of the model puts the positions before the samples.
        batch_first: Order in this one layer, where that is known; None else.
        per_logit: Gradients have a leading axis of logits.
    """

    num_samples: int | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    ignore_index: int | None = None
    either_order: bool = False
    batch_first: bool | None = None
    per_logit: bool = False


@dataclass(frozen=True)
class Positions:
    """The rows of one tensor.

    Attributes:
        shape: Its axes without the feature axis.
        sample_axis: Which of them counts samples; None where that is not known.
        packed: Sample and position of every row of a packed sequence; None else.
    """

    shape: tuple[int, ...]
    sample_axis: int | None
    packed: tuple[Tensor, Tensor] | None = None

    def spread(self, values: Tensor) -> Tensor | None:
        """One value per row from one per sample or per position.

        Args:
            values: (N,), (N, T) or (N, ...), samples first.

        Returns:
            (rows,); None where the rows have no such positions.
        """
        if self.packed is not None:
            sample, time = (index.to(values.device) for index in self.packed)
            return values[sample] if values.ndim == 1 else values[sample, time]
        if self.sample_axis is None or values.ndim > len(self.shape):
            return None
        if self.sample_axis == 1 and values.ndim == 1:
            values = values.expand(self.shape[0], -1)
        elif self.sample_axis == 1:
            values = values.transpose(0, 1)
        if tuple(values.shape) != self.shape[: values.ndim]:
            return None
        trailing = (1,) * (len(self.shape) - values.ndim)
        return values.reshape(*values.shape, *trailing).expand(self.shape).flatten()


def packed_positions(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Sample and position of every row of ``packed.data``.

    Args:
        packed: As ``torch.nn.utils.rnn`` makes it.

    Returns:
        Two (rows,) index tensors; samples in the order in which they were packed.
    """
    sizes = packed.batch_sizes.tolist()
    sample = torch.cat([torch.arange(size) for size in sizes])
    time = torch.cat([torch.full((size,), t) for t, size in enumerate(sizes)])
    if packed.sorted_indices is not None:
        sample = packed.sorted_indices.cpu()[sample]
    return sample, time


def sample_axis(
    shape: Sequence[int], module: nn.Module, samples: Samples
) -> int | None:
    """Which axis counts the samples, from what is stated and never from luck.

    Args:
        shape: Axes of a tensor without the feature axis.
        module: The layer; its ``batch_first`` decides where it has one.
        samples: Of the batch.

    Returns:
        0, 1 or None where it cannot be told.

    Raises:
        DomainError: Both axes have N entries and either order may be meant.
    """
    count = samples.num_samples
    fits = [axis for axis in (0, 1) if axis < len(shape) and shape[axis] == count]
    batch_first = getattr(module, "batch_first", samples.batch_first)
    alone = len(shape) == 1 or isinstance(module, _ConvNd | _NormBase)
    if alone or (batch_first is None and not samples.either_order):
        batch_first = True
    if batch_first is not None:
        axis = 0 if batch_first else 1
        return axis if axis in fits else None
    if len(fits) > 1:
        raise DomainError(
            "the axis of the samples must be known in a model that also puts positions "
            f"first, got {count} samples and shape {tuple(shape)}; "
            "use a batch size that differs from the length"
        )
    return fits[0] if fits else None


def feature_axis(module: nn.Module, ndim: int, given: int | None) -> int:
    """The axis of the features of a layer's tensor.

    Args:
        module: The layer.
        ndim: Number of axes of its tensor.
        given: What the user states; None to go by the type of the layer.

    Returns:
        The axis, not negative.

    Raises:
        DomainError: The type does not tell; the message names the way out.
    """
    if given is not None:
        return given % ndim
    if isinstance(module, _ConvNd):
        return ndim - len(module.kernel_size) - 1
    if isinstance(module, _NormBase | nn.GroupNorm):
        return min(1, ndim - 1)
    several = len(getattr(module, "normalized_shape", ())) > 1
    transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    if ndim <= 2 or transposed or (isinstance(module, _LAST) and not several):
        return ndim - 1
    raise DomainError(
        f"a row must know its features, {type(module).__name__} does not tell on which "
        f"of {ndim} axes they are; pass feature_axis="
    )


def patches(module: nn.Module, inputs: Tensor) -> Tensor:
    """Unfolded inputs of a convolution, one patch per output position.

    Entries of a patch are ordered (channel, *kernel), as ``weight.flatten(1)`` is; with
    groups, group q reads columns q K to (q + 1) K with K = C / groups * kernel size.

    Args:
        module: Conv1d, Conv2d or Conv3d.
        inputs: (N, C, *size) or (C, *size).

    Returns:
        (N, *positions, C * kernel size) or without N.

    Raises:
        DomainError: The module is no such convolution.
    """  # noqa: DOC502 - raised by the function called
    x, channel, dims = _windows(module, inputs)
    # (N, C, *positions, *kernel) to (N, *positions, C * kernel).
    return x.movedim(channel, channel + dims).flatten(channel + dims)


def patch_columns(module: nn.Module, inputs: Tensor) -> Tensor:
    """Patches with the positions innermost: what one entry of all patches reads.

    Rows of the inputs are copied as they are, in a fraction of the time of ``patches``.

    Args:
        module: Conv1d, Conv2d or Conv3d.
        inputs: (N, C, *size) or (C, *size).

    Returns:
        (N, C * kernel size, positions) or without N.

    Raises:
        DomainError: The module is no such convolution.
    """  # noqa: DOC502 - raised by the function called
    x, channel, dims = _windows(module, inputs)
    first = channel + 1
    kernel = tuple(range(first + dims, first + 2 * dims))
    x = x.movedim(kernel, tuple(range(first, first + dims)))
    return x.flatten(first + dims).flatten(channel, first + dims - 1)


def _windows(module: nn.Module, inputs: Tensor) -> tuple[Tensor, int, int]:
    """View (N, C, *positions, *kernel), its axis of channels, positions' number."""
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        raise DomainError(
            "inputs unfold for Conv1d, Conv2d and Conv3d, "
            f"got {type(module).__name__}; leave unfold=False"
        )
    dims = len(module.kernel_size)
    channel = inputs.ndim - dims - 1
    x = F.pad(inputs, _padding(module), mode=_padding_mode(module))
    for axis in range(dims):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        x = x.unfold(channel + 1 + axis, reach, module.stride[axis])
        x = x[..., :: module.dilation[axis]]
    return x, channel, dims


def _padding_mode(module: _ConvNd) -> str:
    return "constant" if module.padding_mode == "zeros" else module.padding_mode


def _padding(module: _ConvNd) -> list[int]:
    """Padding in the order of F.pad: last axis first, before and after."""
    pairs = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "valid":
            before = after = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = cast(tuple[int, ...], module.padding)[axis]
        pairs += [before, after]
    return pairs


def as_rows(tensor: Tensor, axis: int) -> Tensor:
    """Rows (rows, d) of a tensor with its features on ``axis``.

    Args:
        tensor: At least one axis.
        axis: Of the features.

    Returns:
        2-D tensor; shares memory where strides allow it.

    Raises:
        ShapeError: A scalar.
    """
    if tensor.ndim == 0:
        raise ShapeError(
            "rows need at least one axis, got a scalar; read the tensor itself"
        )
    return tensor.movedim(axis, -1).reshape(-1, tensor.shape[axis])
