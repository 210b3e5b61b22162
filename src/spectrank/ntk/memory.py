"""The memory ceiling, and where a kernel that does not fit is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError

# Of the result and the working arrays together, where the caller states none.
DEFAULT_MEMORY = 4 * 2**30
# Working arrays above this buy little: blocks are then large enough for the products
# to run at full speed.
_WORKING = 256 * 2**20


def working_bytes(memory: int | None, in_memory: int, row_bytes: int) -> int:
    """What the working arrays may take.

    Args:
        memory: Ceiling stated by the caller, in bytes.
        in_memory: What the result takes of it.
        row_bytes: Of one row of a Jacobian with what its backward pass keeps.

    Returns:
        Bytes: 256 MiB, more where 64 rows need more, never above what is left.

    Raises:
        DomainError: Not even two rows fit.
    """
    ceiling = DEFAULT_MEMORY if memory is None else memory
    # A caller who took a result above the ceiling by block= still gets blocks.
    left = ceiling - in_memory if in_memory < ceiling else min(ceiling, _WORKING)
    if 2 * row_bytes > left:
        raise DomainError(
            f"two rows of a Jacobian must fit below the memory ceiling, they take "
            f"{2 * row_bytes:,} bytes and {left:,} of {ceiling:,} are left beside the "
            "result; raise memory=, choose fewer params= or write to out="
        )
    return min(left, max(_WORKING, 64 * row_bytes))


def check_memory(
    result_bytes: int, memory: int | None, block: int | None, out: object
) -> None:
    """Refuse a result that does not fit, before it is computed.

    Args:
        result_bytes: Of the kernel.
        memory: Ceiling in bytes; None for 4 GiB.
        block: Samples per block; given, the caller answers for the memory.
        out: A file, given or not.

    Raises:
        ArgumentTypeError: A count is no integer.
        DomainError: A count is below one, or the result is above the ceiling.
    """  # noqa: DOC502 - one is raised by the function called
    check_size("memory", memory)
    check_size("block", block)
    ceiling = DEFAULT_MEMORY if memory is None else memory
    if out is None and block is None and result_bytes > ceiling:
        raise DomainError(
            f"a kernel must fit below the memory ceiling of {ceiling:,} bytes, this "
            f"one takes {result_bytes:,}; pass out= to keep it in a file, "
            "outputs='trace', or memory= to raise the ceiling"
        )


def check_size(name: str, value: object) -> None:
    """Refuse what is neither None nor a whole number of at least one.

    Args:
        name: Of the argument.
        value: As given.

    Raises:
        ArgumentTypeError: It is no integer.
        DomainError: It is below one.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(
            f"{name} must be an integer or None, got {value!r}; pass a count"
        )
    if value < 1:
        raise DomainError(
            f"{name} must be at least 1, got {value}; leave it out for the default"
        )


@final
class Target:
    """Where a kernel is written: an array of zeros, in memory or in a file.

    A file is written beside its place and moved there when it is whole.

    Args:
        shape: Of the kernel.
        dtype: float32 or float64.
        device: Of an array in memory.
        out: Path of a ``.npy`` file, or None.

    Raises:
        ArgumentTypeError: ``out`` is no path.
        DomainError: Its folder does not exist.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        out: str | os.PathLike[str] | None,
    ) -> None:
        self._path = None if out is None else _checked(out)
        self._shape, self._dtype, self._device = shape, dtype, device
        self._tensor: Tensor | None = None
        self._map: np.memmap | None = None
        self._part: Path | None = None

    @property
    def tensor(self) -> Tensor:
        """The array, made when it is first asked for."""
        if self._tensor is None:
            self._tensor = self._make()
        return self._tensor

    def finish(self) -> Tensor:
        """Return the kernel; a file is moved to its place and mapped.

        Returns:
            The kernel. Of a file, pages are read as they are used, and writing to the
            tensor does not change the file.
        """
        if self._path is None:
            return self.tensor
        assert self._map is not None
        assert self._part is not None
        self._map.flush()
        self._tensor = self._map = None
        self._part.replace(self._path)
        self._part = None
        return torch.from_numpy(np.load(self._path, mmap_mode="c"))

    def abandon(self) -> None:
        """Remove an unfinished file."""
        if self._part is not None:
            # Windows removes no file that is mapped.
            self._tensor = self._map = None
            self._part.unlink(missing_ok=True)

    def _make(self) -> Tensor:
        if self._path is None:
            return torch.zeros(self._shape, dtype=self._dtype, device=self._device)
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        name = str(self._dtype).removeprefix("torch.")
        made: np.memmap = np.lib.format.open_memmap(
            self._part, mode="w+", dtype=np.dtype(name), shape=self._shape
        )
        self._map = made
        return torch.from_numpy(made)


def _checked(out: object) -> Path:
    if not isinstance(out, str | os.PathLike):
        raise ArgumentTypeError(
            f"out must be the path of a file, got {type(out).__name__}; pass such as "
            "'kernel.npy'"
        )
    path = Path(out)
    if path.suffix != ".npy" or not path.parent.is_dir() or path.is_dir():
        raise DomainError(
            f"out must be a .npy file in an existing folder, got {path}; create the "
            "folder or choose another name"
        )
    return path
