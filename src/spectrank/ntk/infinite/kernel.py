r"""``infinite_width``: the NNGP and tangent kernels of a module's infinite-width limit.

    nngp(x, y)   covariance of one output over draws of the parameters
    ntk(x, y)    sum_p df_i(x)/dp df_i(y)/dp of one output, in the limit not random

Hidden widths go to infinity one after the other, inputs and windows stay as they are;
covariances between different outputs are zero. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.shapes import Float64
from spectrank.model.graph import Node
from spectrank.ntk.infinite.affine import Parametrisation, convolution, linear
from spectrank.ntk.infinite.field import Data, Field, settled
from spectrank.ntk.infinite.moves import reshape
from spectrank.ntk.infinite.pools import pool
from spectrank.ntk.infinite.refusals import refusal
from spectrank.ntk.infinite.rows import rows
from spectrank.ntk.infinite.scales import Scale
from spectrank.ntk.infinite.steps import elementwise, layer_norm, total
from spectrank.ntk.memory import check_size

if TYPE_CHECKING:
    from spectrank.table import Table

# Of the numbers that a block of samples holds at a time.
_MEMORY = 256 << 20
# Blocks of covariances alive at once.
_ALIVE = 10


@final
@dataclass(frozen=True, repr=False)
class Kernel:
    """NNGP and tangent kernel of an infinitely wide net.

    Made by `infinite_width`.

    Attributes:
        nodes: Steps of the model, the input first.
        scales: Id of a layer to its variances.
        affine: Id of a layer norm to whether its weight and bias are trained.
        pairs: Ids after which covariances of different positions are needed.
        parametrisation: ``standard`` or ``ntk``.
        input_shape: Of one sample; None where it is not known before the first call.
        relative_variance: Of K(x, x) around the limit at the widths of a law of random
            nets, exact; None where there is no law, or no exact value.
    """

    nodes: tuple[Node, ...]
    scales: Mapping[str, Scale]
    affine: Mapping[str, Mapping[str, bool]]
    pairs: frozenset[str]
    parametrisation: Parametrisation
    input_shape: tuple[int, ...] | None = None
    relative_variance: float | None = None

    def __call__(
        self, x: Tensor, y: Tensor | None = None, *, block: int | None = None
    ) -> tuple[Float64[Tensor, "n1 n2"], Float64[Tensor, "n1 n2"]]:
        """Evaluate both kernels.

        Args:
            x: (n1, *input) samples of any floating dtype, computed in float64.
            y: (n2, *input); None for ``x``, which makes both exactly symmetric.
            block: Samples of each set at a time; None for as many as keep the
                covariances of positions within 256 MiB.

        Returns:
            nngp and ntk, on the device of ``x``.

        Raises:
            ArgumentTypeError: An input is no real tensor.
            DomainError: An input or a kernel is not finite, or ``block`` is below 1.
            ShapeError: An input is of another shape.
        """  # noqa: DOC502 - some are raised by the functions called
        x = self._checked("x", x)
        other = x if y is None else self._checked("y", y)
        if other.shape[1:] != x.shape[1:] or other.device != x.device:
            raise ShapeError(
                f"x and y must agree in all but the first axis and in the device, got "
                f"{tuple(x.shape)} on {x.device} and {tuple(other.shape)} on "
                f"{other.device}; make them alike"
            )
        check_size("block", block)
        size = block or self._block(x)
        nngp = x.new_zeros(len(x), len(other))
        ntk = torch.zeros_like(nngp)
        for i in range(0, len(x), size):
            for j in range(i if y is None else 0, len(other), size):
                part = self._part(x[i : i + size], other[j : j + size])
                for whole, found in zip((nngp, ntk), part, strict=True):
                    if y is None:
                        # Of a square block the upper half counts, mirrored.
                        found = _symmetric(found) if i == j else found
                        whole[j : j + size, i : i + size] = found.T
                    whole[i : i + size, j : j + size] = found
        if not bool(nngp.isfinite().all() and ntk.isfinite().all()):
            raise DomainError(
                "kernels must lie in the range of float64, got entries that are not "
                f"finite for inputs of up to {float(x.abs().max()):.3g}; scale the "
                "inputs or the variances"
            )
        return nngp, ntk

    def table(self) -> Table:
        """Rows of the variances of every layer, and of what keeps the limit random.

        Returns:
            ``weight_variance`` and ``bias_variance`` of each layer; for a `RandomMLP`
            also ``participation_ratio`` of each and the ``kernel_relative_variance`` of
            K(x, x) around the limit.
        """
        layers = list(self.scales.values())
        return rows(layers, self.parametrisation, self.relative_variance)

    def __repr__(self) -> str:
        layers = ", ".join(f"{s.weight_variance:.4g}" for s in self.scales.values())
        return f"Kernel({self.parametrisation}, weight variances {layers})"

    def _checked(self, name: str, x: object) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentTypeError(
                f"{name} is a tensor of real numbers (samples, *input), got {got}; "
                "call .float() on it"
            )
        if x.dim() < 2 or (self.input_shape not in (None, tuple(x.shape[1:]))):
            shape = self.input_shape or ("features",)
            raise ShapeError(
                f"{name} is of shape (samples, {', '.join(map(str, shape))}), got "
                f"{tuple(x.shape)}; pass a batch of inputs of the model"
            )
        if not bool(x.isfinite().all()):
            raise DomainError(
                f"{name} must be finite, got {int((~x.isfinite()).sum())} entries that "
                "are not; leave those samples out"
            )
        return x.detach().double()

    def _block(self, x: Tensor) -> int:
        positions = math.prod(x.shape[1:]) if self.pairs else 1
        if x.dim() > 2:
            # Channels hold no positions; the smallest axis is taken for them.
            positions = math.prod(x.shape[1:]) // min(x.shape[1], x.shape[-1])
        each = 8 * _ALIVE * positions ** (2 if self.pairs else 1)
        return max(1, math.isqrt(_MEMORY // each))

    def _part(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            value = self.run(x, y)
        return value.xy.reshape(len(x), len(y)), value.theta.reshape(len(x), len(y))

    def run(self, x: Tensor, y: Tensor) -> Field:
        """Send two sets of inputs through the steps.

        Args:
            x: (n1, *input).
            y: (n2, *input).

        Returns:
            The field of the output.

        Raises:
            DomainError: A step has no limit, or the output is none of a layer.
        """
        values: dict[str, Data | Field] = {}
        for node in self.nodes:
            values[node.id] = self._step(node, [values[i] for i in node.inputs], x, y)
        last = self.nodes[-1]
        value = values[last.inputs[0] if last.kind == "output" else last.id]
        if isinstance(value, Field):
            # A number added to the outputs moves no covariance.
            value = settled(replace(value, map=replace(value.map, shift=0.0)))
        if isinstance(value, Data) or value.limit or not value.gaussian:
            what = None if isinstance(value, Data) else value.limit
            raise DomainError(
                "the output of an infinite-width kernel is that of a linear layer or "
                f"convolution, as its kernel is random otherwise, got "
                f"{what or 'inputs'} after or beside the last one; end the model with "
                "a layer"
            )
        if value.xy.numel() != len(x) * len(y):
            raise DomainError(
                "the output of the model must be (batch, classes), got one with "
                f"positions {value.sizes}; flatten or pool before the last layer"
            )
        return value

    def _step(
        self, node: Node, inputs: list[Data | Field], x: Tensor, y: Tensor
    ) -> Data | Field:
        full = node.id in self.pairs
        if node.kind == "input":
            return Data(x, y)
        if node.kind == "layer":
            layer = linear if node.op == "linear" else convolution
            scale = self.scales[node.id]
            return layer(inputs[0], node, scale, self.parametrisation, full=full)
        if node.kind == "elementwise":
            return elementwise(inputs[0], node)
        if node.kind == "sum":
            return total(inputs, node)
        if node.kind == "norm":
            return layer_norm(inputs[0], node, self.affine[node.id])
        if node.kind == "pool":
            return pool(inputs[0], node, full=full)
        if node.kind == "reshape":
            return reshape(inputs[0], node)
        if node.kind == "output":
            return inputs[0]
        raise DomainError(refusal(node, f"a {node.kind}", "leave it out"))


def _symmetric(found: Tensor) -> Tensor:
    upper = found.triu()
    return upper + upper.triu(1).T
