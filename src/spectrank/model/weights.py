"""The nouns of this package: WeightMatrix, Skip, SourceInfo and, inside, Entry."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.linalg.implicit import Operand
from spectrank.model.products import Product
from spectrank.model.slices import Slices
from spectrank.model.views import get_view

FileKind = Literal[
    "safetensors",
    "sharded",
    "pickle",
    "folder",
    "ctranslate2",
    "gguf",
    "onnx",
    "tfjs",
]
Kind = Literal["module", "state_dict"] | FileKind


@dataclass(frozen=True)
class WeightMatrix:
    """A named matrix of a weight; its values are loaded only when asked for.

    One tensor may hold several: they have one name and different views, so (name,
    view) is the key of a matrix.

    Attributes:
        name: Parameter name, such as ``encoder.layer.0.attention.self.query.weight``.
        view: Name of the convention that makes the matrix, a key of ``VIEWS``, or of
            the part of a tensor that it is, such as ``qkv.q`` or ``expert.3.gate``.
        shape: (m, n) = (outputs, inputs) of the view, known without loading.
        dtype: As stored.
        layer_type: Class name of the layer where a module was given, else None.
        tied_to: The other names that share this tensor.
        inferred: The view was inferred from name and shape, not known.
        load: Gives the tensor as stored; called once by every ``operand()``.
        take: Stored tensor to matrix; None for the registered view of that name.
        alone: It is the only matrix of its tensor.
        stored: Number of stored entries that it is made of; None for m n.
        note: What a reader of its numbers should know; None for nothing.
    """

    name: str
    view: str
    shape: tuple[int, int]
    dtype: torch.dtype
    layer_type: str | None
    tied_to: tuple[str, ...]
    inferred: bool
    load: Callable[[], Tensor] = field(repr=False, compare=False)
    take: Callable[[Tensor], Operand] | None = field(
        default=None, repr=False, compare=False
    )
    alone: bool = True
    stored: int | None = None
    note: str | None = None

    @property
    def key(self) -> str:
        """The name, with the view in brackets where its tensor holds several."""
        return self.name if self.alone else f"{self.name}[{self.view}]"

    @property
    def num_entries(self) -> int:
        """Stored entries that it is made of: what it costs to hold."""
        return math.prod(self.shape) if self.stored is None else self.stored

    def operand(self) -> Operand:
        """What can be measured, loaded now; dtype and device as stored, detached.

        A 2-D tensor (m n), or a matrix that is never formed. Shares memory with the
        model or the mapped file where strides allow it: do not write to it, and drop
        it before asking for the next one.

        Returns:
            Of shape ``shape``; `spectrank.linalg.spectrum` takes it.

        Raises:
            CheckpointError: The file cannot give the tensor, or gives another shape.
        """  # noqa: DOC502 - raised by the functions called
        expert = getattr(self.take, "expert", None)
        if isinstance(self.load, Slices) and expert is not None:
            return self.of(self.load.alone(expert))
        return self.of(self.load())

    def of(self, tensor: Tensor) -> Operand:
        """The matrix of another tensor that is stored alike, such as a gradient.

        Args:
            tensor: Of the shape of the stored one.

        Returns:
            As ``operand()``, detached.

        Raises:
            CheckpointError: The tensor makes a matrix of another shape.
        """
        tensor = tensor.detach()
        matrix: Operand
        if self.take is None:
            matrix = get_view(self.view).apply(tensor)
        else:
            matrix = self.take(tensor)
        if tuple(matrix.shape) != self.shape:
            raise CheckpointError(
                f"a weight must keep its shape while it is read, {self.name} was "
                f"{self.shape} and is now {tuple(matrix.shape)}; scan it again"
            )
        return matrix

    def tensor(self) -> Tensor:
        """The matrix (m, n) as a dense tensor, loaded now; dtype and device as stored.

        As ``operand()``, but a matrix that is never formed is formed: m n entries.

        Returns:
            2-D tensor of shape ``shape``.
        """
        matrix = self.operand()
        return matrix if isinstance(matrix, Tensor) else matrix.dense()


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
class Verdict:
    """Either a view or the reason why there is none; the other is None.

    Attributes:
        view: Name of a view, or the text of a layout.
        reason: Why there is none.
        whole: The verdict where a tensor is to stay one matrix; None for this one.
    """

    view: str | None = None
    reason: str | None = None
    whole: Verdict | None = None


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
        view: The view or layout that the type of the layer prescribes.
        whole: The same where a tensor is to stay one matrix; None for ``view``.
        reason: Why it is skipped unless the user names a view for it.
        refusal: Why it is skipped whatever the user asks.
        note: What a reader of its numbers should know; None for nothing.
        known: What its layer tells of a view: options of ``conv-operator``.
        config: Configuration of the model that it is in.
        scale: Of a factor of an adapter: what the product is multiplied by.
        product: Makes the product of two factors, of which this is the right one.
        role: ``computed`` is the value of a parametrised weight, ``decoded`` that of
            several tensors with codes, ``beside`` lies outside the weights of a
            checkpoint or is one of these, ``file`` is a file not read.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    load: Callable[[], Tensor] = field(repr=False, compare=False)
    tie: Hashable | None = None
    layer_type: str | None = None
    view: str | None = None
    whole: Verdict | None = None
    reason: str | None = None
    refusal: str | None = None
    note: str | None = None
    known: Mapping[str, str] | None = None
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    scale: float | None = None
    product: Product | None = None
    role: Literal["weight", "buffer", "computed", "decoded", "beside", "file"] = (
        "weight"
    )


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
