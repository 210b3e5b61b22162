"""The nouns of this package: WeightMatrix, Skip, SourceInfo and, inside, Entry."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.views import get_view

Kind = Literal["module", "state_dict", "safetensors", "sharded", "pickle", "folder"]


@dataclass(frozen=True)
class WeightMatrix:
    """A named 2-D view of a weight; its values are loaded only by ``tensor()``.

    Attributes:
        name: Parameter name, such as ``encoder.layer.0.attention.self.query.weight``.
        view: Name of the convention that makes the matrix, a key of ``VIEWS``.
        shape: (m, n) = (outputs, inputs) of the view, known without loading.
        dtype: As stored.
        layer_type: Class name of the layer where a module was given, else None.
        tied_to: The other names that share this tensor.
        inferred: The view was inferred from name and shape, not known.
        load: Gives the tensor as stored; called once by every ``tensor()``.
    """

    name: str
    view: str
    shape: tuple[int, int]
    dtype: torch.dtype
    layer_type: str | None
    tied_to: tuple[str, ...]
    inferred: bool
    load: Callable[[], Tensor] = field(repr=False, compare=False)

    def tensor(self) -> Tensor:
        """The matrix (m n), loaded now; dtype and device as stored, detached.

        Shares memory with the model or the mapped file where strides allow it: do
        not write to it, and drop it before asking for the next one.

        Returns:
            2-D tensor of shape ``shape``.

        Raises:
            CheckpointError: The file cannot give the tensor, or gives another shape.
        """
        matrix = get_view(self.view).apply(self.load().detach())
        if tuple(matrix.shape) != self.shape:
            raise CheckpointError(
                f"a weight must keep its shape while it is read, {self.name} was "
                f"{self.shape} and is now {tuple(matrix.shape)}; scan it again"
            )
        return matrix


@dataclass(frozen=True)
class Skip:
    """A tensor, or a file of a folder, that is no matrix here, with the reason.

    Attributes:
        name: Parameter name, or file name for a file that was not read.
        reason: Why it is not measured and, where one exists, the way to have it.
        shape: Shape as stored; () where unknown.
        dtype: As stored; None where unknown or not representable in torch.
        layer_type: Class name of the layer where a module was given, else None.
    """

    name: str
    reason: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    layer_type: str | None


@dataclass(frozen=True)
class SourceInfo:
    """What a source is, found without reading any values.

    Attributes:
        kind: What was given.
        label: Path or class name.
        files: The files that hold the tensors; empty for objects in memory.
        num_parameters: Elements of floating-point tensors, tied tensors once;
            buffers of a module and what lies beside the weights do not count.
        num_tensors: Names that carry a tensor, tied names and buffers included.
    """

    kind: Kind
    label: str
    files: tuple[Path, ...]
    num_parameters: int
    num_tensors: int


@dataclass(frozen=True)
class Entry:
    """A tensor of a source before it is decided what becomes of it.

    Attributes:
        name: Parameter name.
        shape: Shape as stored; None where only computing the tensor tells.
        dtype: As stored; None where unknown or not representable in torch.
        load: Gives the tensor as stored.
        tie: Equal for entries that share their memory; None where nothing can.
        layer_type: Class name of the layer where a module was given.
        view: The view that the type of the layer prescribes.
        reason: Why it is skipped unless the user names a view for it.
        refusal: Why it is skipped whatever the user asks.
        role: ``computed`` is the value of a parametrised weight, ``beside`` lies
            outside the weights of a checkpoint, ``file`` is a file not read.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    load: Callable[[], Tensor] = field(repr=False, compare=False)
    tie: Hashable | None = None
    layer_type: str | None = None
    view: str | None = None
    reason: str | None = None
    refusal: str | None = None
    role: Literal["weight", "buffer", "computed", "beside", "file"] = "weight"


def nothing_to_load() -> Tensor:
    """Loader of an entry that is always skipped.

    Raises:
        CheckpointError: Always.
    """
    raise CheckpointError("a skipped entry has no tensor; look at its reason")


def storage_key(tensor: Tensor) -> Hashable:
    """Key that is equal for tensors which are the same view of the same memory.

    Args:
        tensor: Any tensor, also without storage (meta, sparse, lazy).

    Returns:
        Storage address, offset, shape, strides, dtype and device; where there is no
        memory to share, the identity of the object.
    """
    if tensor_refusal(tensor) is not None or tensor.untyped_storage().nbytes() == 0:
        return id(tensor)
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor.dtype,
        str(tensor.device),
    )


def tensor_refusal(tensor: Tensor) -> str | None:
    """Why the values of a tensor cannot be had as one dense array; None if they can.

    Args:
        tensor: Any tensor.

    Returns:
        The reason, or None.
    """
    if torch.nn.parameter.is_lazy(tensor):
        return "uninitialised (lazy): run one forward pass first"
    if tensor.is_meta:
        return "on the meta device: it has a shape but no values"
    if tensor.is_quantized:
        return "quantised weights are not decoded"
    if tensor.is_nested:
        return "nested tensor: it has no single shape"
    if tensor.layout != torch.strided:
        return f"stored as {tensor.layout}, only dense tensors are read"
    return None


def known_shape(tensor: Tensor) -> tuple[int, ...]:
    """Shape of a tensor.

    Args:
        tensor: Any tensor.

    Returns:
        Its shape; () for lazy and nested tensors, which have none.
    """
    shapeless = torch.nn.parameter.is_lazy(tensor) or tensor.is_nested
    return () if shapeless else tuple(tensor.shape)
