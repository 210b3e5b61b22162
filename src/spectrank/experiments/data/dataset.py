"""Dataset: inputs, labels and where they come from.

N is the number of samples, d the number of numbers in one flattened input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError, SpectrankError


class DataError(SpectrankError, OSError):
    """A data set is not there, cannot be read, or is not the one it is named after."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """One split of a data set.

    Attributes:
        name: As given to `load`.
        split: ``train`` or ``test``.
        inputs: (N, ...) uint8 pixels as stored, or float32.
        labels: (N,) int64 in ``[0, len(classes))``.
        classes: Names of the classes.
        source: Where the samples come from.
        licence: As stated by their origin; "not stated" where it is not.
        sha256: Name of a file, or of the tensors, to its SHA-256 as hexadecimal digits.
        scale: ``inputs * scale`` is the input of a network; pixels then lie in [0, 1].
        note: What a reader of a result must know of the data; empty if nothing.
    """

    name: str
    split: str
    inputs: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    licence: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    note: str = ""

    def __post_init__(self) -> None:
        if self.inputs.dtype not in {torch.uint8, torch.float32}:
            raise ArgumentTypeError(
                f"inputs are uint8 or float32, got {self.inputs.dtype}; convert them"
            )
        if self.labels.dtype != torch.int64:
            raise ArgumentTypeError(
                f"labels are int64, got {self.labels.dtype}; convert them"
            )
        if self.labels.ndim != 1 or len(self.labels) != len(self.inputs):
            raise ShapeError(
                "a data set has one label for each input, got "
                f"{tuple(self.labels.shape)} labels for {len(self.inputs)} inputs; "
                "the files may belong to different splits"
            )
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if bool(outside.any()):
            raise DomainError(
                f"labels lie in [0, {len(self.classes)}), got "
                f"{int(self.labels[outside][0])}; name every class in `classes`"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.inputs.shape[1:]))
        return f"Dataset({self.name} {self.split}: {len(self)} x {shape})"

    def rows(
        self, num_samples: int | None = None, *, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return the inputs as scaled, flattened rows.

        Args:
            num_samples: The first so many; None for all.
            dtype: A floating-point type.

        Returns:
            (N, d) ``inputs * scale``.

        Raises:
            DomainError: ``num_samples`` is not in [1, N].
        """
        count = len(self) if num_samples is None else num_samples
        if not 1 <= count <= len(self):
            raise DomainError(
                f"num_samples must lie in [1, {len(self)}] for {self.name} "
                f"{self.split}, got {num_samples}; ask for fewer"
            )
        return self.inputs[:count].flatten(1).to(dtype) * self.scale


def tensor_digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of the bytes of tensors, one after the other.

    Args:
        *tensors: CPU tensors of any dtype that numpy has.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
