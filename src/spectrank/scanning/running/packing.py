"""A matrix as bytes: to send it to another process, and to know it again.

What arrives has the strides of what was sent and the same address modulo 64: kernels
choose their paths by both, and the numbers are to be the same bits.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from multiprocessing.connection import Connection
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

# Kernels of today look at no more of an address.
_ALIGNMENT = 64


@final
@dataclass(frozen=True)
class Packed:
    """An object taken apart.

    Attributes:
        head: All but the entries of its tensors.
        places: Address of each tensor modulo 64.
        buffers: Bytes of each tensor, (size,) uint8, sharing memory with it.
    """

    head: bytes
    places: tuple[int, ...]
    buffers: tuple[Any, ...]


def pack(message: object) -> Packed:
    """Take an object apart without copying dense tensors.

    Args:
        message: Anything that can be pickled; tensors on the host.

    Returns:
        Its parts.
    """
    taken: list[pickle.PickleBuffer] = []
    places: list[int] = []
    stream = io.BytesIO()
    _Packer(stream, taken.append, places).dump(message)
    arrays = (np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in taken)
    return Packed(stream.getvalue(), tuple(places), tuple(arrays))


def unpack(packed: Packed) -> Any:
    """Put an object together; its tensors own their memory.

    Args:
        packed: What `pack` gave.

    Returns:
        An equal object.
    """
    rooms = []
    for place, buffer in zip(packed.places, packed.buffers, strict=True):
        room = _room(buffer.nbytes, place)
        room[:] = buffer.data
        rooms.append(room)
    return pickle.loads(packed.head, buffers=rooms)


def send(connection: Connection, message: object) -> None:
    """Send an object; tensors in it go as their bytes, without a copy in between.

    By a pipe, not by shared memory: containers often give that 64 MiB, and touching
    more kills the process.

    Args:
        connection: Its other end calls `receive`.
        message: Anything that can be pickled; tensors on the host.
    """
    packed = pack(message)
    sizes = [buffer.nbytes for buffer in packed.buffers]
    connection.send(list(zip(sizes, packed.places, strict=True)))
    connection.send_bytes(packed.head)
    for buffer in packed.buffers:
        connection.send_bytes(buffer.data)


def receive(connection: Connection) -> Any:
    """Receive what `send` sent.

    Args:
        connection: The other end.

    Returns:
        The object; its tensors own their memory.

    Raises:
        EOFError: If the other end is closed.
    """  # noqa: DOC502
    rooms = [_room(size, place) for size, place in connection.recv()]
    head = connection.recv_bytes()
    for room in rooms:
        connection.recv_bytes_into(room)
    return pickle.loads(head, buffers=rooms)


def _room(size: int, place: int) -> memoryview:
    """Writable memory at an address that is ``place`` modulo 64."""
    room = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    start = (place - room.data_ptr()) % _ALIGNMENT
    view: memoryview = room.numpy().data
    return view[start : start + size]


def digest(values: Sequence[object]) -> str:
    """Hash of the content of matrices: equal for equal bytes, shapes and dtypes.

    Args:
        values: Tensors, and data classes, sequences and plain values of them.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    state = hashlib.sha256()
    _feed(state.update, values)
    return state.hexdigest()


def _feed(update: Callable[[Any], object], value: object) -> None:
    if isinstance(value, Tensor):
        order, flat = _flat(value)
        update(f"tensor {value.dtype} {tuple(value.shape)} {order};".encode())
        update(flat.cpu().numpy().data)
    elif is_dataclass(value) and not isinstance(value, type):
        update(f"{type(value).__qualname__} {len(fields(value))};".encode())
        for field in fields(value):
            update(f"{field.name}=".encode())
            _feed(update, getattr(value, field.name))
    elif isinstance(value, list | tuple):
        update(f"sequence {len(value)};".encode())
        for item in value:
            _feed(update, item)
    else:
        text = repr(value)
        update(f"{len(text)} {text};".encode())


def _flat(tensor: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """Bytes in memory order, and the axes from the outermost in memory.

    Args:
        tensor: Any dense tensor.

    Returns:
        Order of the axes and a flat uint8 tensor, which shares memory where the
        entries fill theirs.
    """
    tensor = tensor.detach()
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.ndim), key=lambda d: (-strides[d], d)))
    flat = tensor.permute(order).contiguous().reshape(-1)
    return order, flat.view(torch.uint8)


class _Packer(pickle.Pickler):
    def __init__(
        self,
        stream: io.BytesIO,
        callback: Callable[[pickle.PickleBuffer], Any],
        places: list[int],
    ) -> None:
        super().__init__(stream, protocol=5, buffer_callback=callback)
        self._places = places

    def reducer_override(self, value: Any) -> Any:
        """Take tensors apart; the rest as ever."""
        if not isinstance(value, Tensor):
            return NotImplemented
        order, flat = _flat(value)
        shape = tuple(value.shape[d] for d in order)
        if value.numel() == 0:
            return _unpacked, (None, value.dtype, shape, order)
        self._places.append(value.data_ptr() % _ALIGNMENT)
        return _unpacked, (
            pickle.PickleBuffer(flat.numpy().data),
            value.dtype,
            shape,
            order,
        )


def _unpacked(
    buffer: Any, dtype: torch.dtype, shape: tuple[int, ...], order: tuple[int, ...]
) -> Tensor:
    if buffer is None:
        stored = torch.empty(shape, dtype=dtype)
    else:
        stored = torch.frombuffer(buffer, dtype=dtype).reshape(shape)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return stored.permute(inverse)
