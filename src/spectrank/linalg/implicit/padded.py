"""The operator of a convolution with zero padding, by products with it.

Small operators are formed and measured as any matrix, by ``padded-gram`` and its like.
Of large ones only the norms are known: the largest singular value by Lanczos, the
Frobenius norm exactly.
Source (derived): tests/linalg/implicit/test_padded.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from spectrank.errors import DomainError
from spectrank.linalg.enclosure import enclose_product, start_vector
from spectrank.linalg.implicit.base import Implicit, Settings
from spectrank.linalg.implicit.kernel import (
    Axes,
    Grid,
    axes_of,
    checked_grid,
    weighted_norm,
)
from spectrank.linalg.implicit.union import NO_CERTIFICATE
from spectrank.linalg.operand import EPS, make_operand
from spectrank.linalg.routes import Route
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Need, Spectrum, without_values
from spectrank.linalg.value import Value

# An operator is formed up to this shorter side and number of entries (512 MiB) where
# all values are wanted, and up to the first side alone where norms are enough.
_FORMED_SIDE, _FORMED_ENTRIES, _NORMS_SIDE = 4096, 1 << 26, 512
# Entries of unrolled images in one go while an operator is formed: 4 MiB, a cache.
_IMAGE_ENTRIES = 1 << 19
# Steps of Lanczos, and entries of the vectors that they keep: 512 MiB.
_MAX_STEPS, _KEPT_ENTRIES = 1000, 1 << 26

_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


@final
@dataclass(frozen=True, eq=False)
class PaddedConvolution(Implicit):
    """A convolution of inputs (in, *size) with zeros around them.

    Attributes:
        kernel: (out, in / groups, *taps), 1 to 3 spatial axes.
        size: Inputs along each axis; one number for all.
        padding: Zeros before and after each axis; one number for all axes, one for
            each, or a pair (before, after) for each.
        stride: Step between two outputs.
        dilation: Step between two taps.
        groups: Of the convolution.
        transposed: The operator is the transpose of that convolution: ``size`` is that
            of its outputs.
    """

    kernel: Tensor
    size: Axes
    padding: Axes | Sequence[tuple[int, int]] = 0
    stride: Axes = 1
    dilation: Axes = 1
    groups: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        if min(self.outputs) < 1:
            raise DomainError(
                f"a kernel of taps {self.grid.taps} with dilation {self.grid.dilation} "
                f"must fit into the padded input, got size {self.grid.size} with "
                f"padding {self.paddings}; choose a larger size"
            )

    @property
    def grid(self) -> Grid:
        """The numbers of the convolution."""
        return checked_grid(
            self.kernel, self.size, self.stride, self.dilation, self.groups
        )

    @property
    def paddings(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after each axis."""
        d, given = self.kernel.ndim - 2, self.padding
        if isinstance(given, int) or all(isinstance(x, int) for x in given):
            both = axes_of("padding", given, d, least=0)  # type: ignore[arg-type]
            return tuple((x, x) for x in both)
        before = axes_of("padding", [x[0] for x in given], d, least=0)  # type: ignore[index]
        after = axes_of("padding", [x[1] for x in given], d, least=0)  # type: ignore[index]
        return tuple(zip(before, after, strict=True))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Outputs of the convolution along each axis."""
        grid = self.grid
        return tuple(
            (side + sum(pad) - dilation * (taps - 1) - 1) // stride + 1
            for side, pad, dilation, taps, stride in zip(
                grid.size,
                self.paddings,
                grid.dilation,
                grid.taps,
                grid.stride,
                strict=True,
            )
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(out * outputs, in * inputs); swapped where transposed."""
        grid = self.grid
        m, n = grid.out * math.prod(self.outputs), grid.channels * grid.num_inputs
        return (n, m) if self.transposed else (m, n)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The kernel."""
        return (self.kernel,)

    def with_factors(self, factors: tuple[Tensor, ...]) -> PaddedConvolution:
        """The same with another kernel."""
        return replace(self, kernel=factors[0])

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of inputs.

        Args:
            x: (batch, in, *size).

        Returns:
            (batch, out, *outputs).
        """
        convolution = _CONVOLUTIONS[self.kernel.ndim - 3]
        around = [pad for pair in reversed(self.paddings) for pad in pair]
        return convolution(
            functional.pad(x, around),
            self.kernel.detach(),
            stride=self.grid.stride,
            dilation=self.grid.dilation,
            groups=self.groups,
        )

    def backward(self, y: Tensor) -> Tensor:
        """The transpose of ``forward``.

        Args:
            y: (batch, out, *outputs).

        Returns:
            (batch, in, *size).
        """
        grid = self.grid
        x = _TRANSPOSED[self.kernel.ndim - 3](
            y,
            self.kernel.detach(),
            stride=grid.stride,
            dilation=grid.dilation,
            groups=self.groups,
        )
        # Cut the padding off; inputs that no output reads get zeros.
        around: list[int] = []
        for side, (before, _), reached in zip(
            reversed(grid.size),
            reversed(self.paddings),
            reversed(x.shape[2:]),
            strict=True,
        ):
            around += [-before, side + before - reached]
        return functional.pad(x, around)

    def dense(self) -> Matrix:
        """The matrix itself, rows (out, *outputs), columns (in, *inputs)."""
        grid = self.grid
        n = grid.channels * grid.num_inputs
        whole = self.kernel.new_empty(n, grid.out * math.prod(self.outputs))
        # Unrolled, an image has an entry for each tap.
        unrolled = grid.channels * math.prod(grid.taps) * math.prod(self.outputs)
        step = max(_IMAGE_ENTRIES // max(unrolled, n), 1)
        for start in range(0, n, step):
            images = whole[start : start + step]
            basis = self.kernel.new_zeros(len(images), n)
            basis.diagonal(start).fill_(1.0)
            x = basis.reshape(len(images), grid.channels, *grid.size)
            images.copy_(self.forward(x).flatten(1))
        return whole if self.transposed else whole.mT

    def is_formed(self, wanted: Collection[Need]) -> bool:
        """Whether it is made a matrix of m n entries to be measured.

        Args:
            wanted: What of its spectrum.

        Returns:
            The choice that ``measure`` makes.
        """
        m, n = self.shape
        small = min(m, n) <= _FORMED_SIDE and m * n <= _FORMED_ENTRIES
        return small and (_more_than_norms(wanted) or min(m, n) <= _NORMS_SIDE)

    @property
    def max_steps(self) -> int:
        """Most steps of Lanczos, each of which keeps a vector of min(m, n) entries."""
        return max(min(_MAX_STEPS, _KEPT_ENTRIES // min(self.shape)), 3)

    def measure(self, settings: Settings) -> Spectrum:
        """As any matrix where it is small, else its norms."""
        if self.is_formed(settings.wanted):
            return self._formed(settings)
        top = self._enclosed(settings)
        if top is None:
            lost = "the steps of Lanczos lost their digits"
            return without_values(self.shape, math.nan, "not_converged", lost)
        reason: str | None = None
        if _more_than_norms(settings.wanted):
            m, n = self.shape
            reason = (
                f"an operator of {m} x {n} is too large to form: its norms only; "
                "conv-operator with a smaller size or circular padding has all values"
            )
        return Spectrum(
            self.shape,
            self._frobenius(),
            top,
            None,
            None,
            None,
            "lanczos",
            "ok",
            reason,
        )

    def _formed(self, settings: Settings) -> Spectrum:
        operand = make_operand(self.dense())
        if operand.amax == 0.0:
            # The taps that are not zero never meet an input.
            return without_values(self.shape, 0.0, "degenerate", "the matrix is zero")
        route = Route(
            operand,
            self.shape,
            settings.rtol,
            settings.certify,
            settings.failure_probability,
            settings.seed,
        )
        found = route.take(settings.wanted)
        # Formed, and yet no noise: its zeros and repetitions are told by the route.
        return replace(found, route=f"padded-{found.route}")

    def _enclosed(self, settings: Settings) -> Value | None:
        grid = self.grid
        m = grid.out * math.prod(self.outputs)
        n = grid.channels * grid.num_inputs

        def of_inputs(v: Tensor) -> Tensor:
            x = v.reshape(1, grid.channels, *grid.size)
            return self.backward(self.forward(x)).flatten()

        def of_outputs(v: Tensor) -> Tensor:
            y = v.reshape(1, grid.out, *self.outputs)
            return self.forward(self.backward(y)).flatten()

        value = enclose_product(
            of_inputs if n <= m else of_outputs,
            start_vector(min(m, n), settings.seed, self.device),
            # Two sums over the taps and channels of a group.
            2.0 * (self.kernel[0].numel() + grid.out * math.prod(grid.taps)) * EPS,
            rtol=settings.rtol,
            failure_probability=settings.failure_probability,
            max_steps=self.max_steps,
            wide=True,
        )
        if value is None:
            return None
        reasons = []
        if value.relative_width > settings.rtol * (1.0 + 1e-6):
            reasons.append("wider than asked for: Lanczos ran out of steps")
        if settings.certify == "deterministic":
            reasons.append(NO_CERTIFICATE)
        return replace(value, reason="; ".join(reasons) or None)

    def _frobenius(self) -> Value:
        """Every tap as often as it meets an input."""
        grid = self.grid
        weights = torch.ones(1, dtype=torch.int64)
        for axis, outputs in enumerate(self.outputs):
            starts = torch.arange(outputs) * grid.stride[axis] - self.paddings[axis][0]
            met = starts + torch.arange(grid.taps[axis])[:, None] * grid.dilation[axis]
            counts = ((met >= 0) & (met < grid.size[axis])).sum(1)
            weights = (weights[:, None] * counts).flatten()
        return weighted_norm(self.kernel, weights)


def _more_than_norms(wanted: Collection[Need]) -> bool:
    return not {"sigma", "small_end", "schatten4"}.isdisjoint(wanted)
