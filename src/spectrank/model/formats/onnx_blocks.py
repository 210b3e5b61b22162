r"""Weights of ONNX Runtime's ``MatMulNBits``, in which language models are exported.

.. math:: y = x W^T, \quad W_{nk} = s_{nb} (q_{nk} - z_{nb}),
          \quad b = \lfloor k / B \rfloor

The codes are (N, blocks, bytes of a block), the first of two in the lower half of a
byte; zero points are packed alike along the blocks, or numbers like the scales, and are
2^(bits - 1) where there are none. Source (stated): ContribOperators.md of ONNX Runtime.
Source (derived): run by it, tests/model/formats/test_onnx_blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from spectrank.errors import CheckpointError
from spectrank.model.formats.bits import look_up

_BITS = (4, 8)


@final
@dataclass(frozen=True)
class Blocks:
    """How a ``MatMulNBits`` reads its second input.

    Attributes:
        outputs: N.
        inputs: K.
        bits: Of a code.
        block: Inputs per scale.
        scale: Name of the scales.
        zero_point: Name of the zero points; None for the middle of the codes.
    """

    outputs: int
    inputs: int
    bits: int
    block: int
    scale: str
    zero_point: str | None

    @property
    def number(self) -> int:
        """Blocks of a row, the last one padded."""
        return -(-self.inputs // self.block)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether codes have the shape that the operator asks for."""
        wanted = (self.outputs, self.number, self.block * self.bits // 8)
        return shape == wanted


def read_blocks(node: Any, attribute: Callable[[Any, str, Any], Any]) -> Blocks | None:
    """What a ``MatMulNBits`` says of its weight.

    Args:
        node: The operator.
        attribute: Node, name and default to the value of an attribute.

    Returns:
        None where it is written otherwise than is known here.
    """
    names = ("N", "K", "bits", "block_size")
    sizes = [attribute(node, name, 4 if name == "bits" else 0) for name in names]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    outputs, inputs, bits, block = sizes
    rest = [*node.input[2:], "", "", ""]
    scale, zero_point, order = rest[:3]
    # Inputs in an order of their own (g_idx) are no longer written.
    known = bits in _BITS and block % 16 == 0 and scale and not order
    if not known:
        return None
    return Blocks(outputs, inputs, bits, block, scale, zero_point or None)


def decode_blocks(
    codes: Tensor, scale: Tensor, zero: Tensor | None, how: Blocks, name: str
) -> Tensor:
    """The weight (N, K) of codes and their scales.

    Args:
        codes: (N, blocks, bytes), uint8.
        scale: N * blocks of them in any shape.
        zero: Zero points, packed in bytes or as numbers; None for the middle.
        how: From ``read_blocks``.
        name: Of the weight, for the message.

    Returns:
        float32.

    Raises:
        CheckpointError: There are not as many scales or zero points as blocks.
    """
    rows, number = how.outputs, how.number
    values = _unpacked(codes, how.bits).reshape(rows, number, how.block)
    points: Tensor | float = float(1 << (how.bits - 1))
    if zero is not None:
        points = _points(zero, how)
    sized = isinstance(points, float) or points.numel() == rows * number
    if scale.numel() != rows * number or not sized:
        raise CheckpointError(
            f"MatMulNBits has one scale and zero point per block, {name} has "
            f"{rows * number} blocks and {scale.numel()} scales; export it again"
        )
    if isinstance(points, Tensor):
        points = points.reshape(rows, number, 1)
    values -= points
    values *= scale.to(torch.float32).reshape(rows, number, 1)
    return values.flatten(1)[:, : how.inputs]


def _unpacked(raw: Tensor, bits: int) -> Tensor:
    if bits == 8:
        return raw.to(torch.float32)
    counting = torch.arange(16, dtype=torch.float32)
    return look_up(raw, counting, lower_first=True)


def _points(zero: Tensor, how: Blocks) -> Tensor:
    if zero.dtype != torch.uint8:
        return zero.to(torch.float32)
    width = -(-how.number * how.bits // 8)
    if zero.numel() != how.outputs * width:
        return zero.new_empty(0)
    return _unpacked(zero.reshape(how.outputs, width), how.bits)[:, : how.number]
