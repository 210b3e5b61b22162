r"""The operator of a convolution with circular padding: exact by its frequencies.

With unitary Fourier transforms on the grid of inputs (sides N) and of outputs (sides
M = N / stride) the operator falls into one block per output frequency v,

    B(v) = [K(v + j M)]_j / sqrt(prod stride),   K(w) = sum_t K_t exp(2 pi i w.t d / N)

with the aliases j = 0 .. stride - 1 side by side. Blocks of v and -v are conjugate.
Source (stated): Sedghi, Gupta & Long (2019), The singular values of convolutional
layers, arXiv:1805.10408, for stride 1. Source (derived) for strides, dilation and
groups: tests/linalg/implicit/test_circular.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.errors import DomainError
from spectrank.linalg.gram import gram_error
from spectrank.linalg.implicit.base import Implicit, Settings
from spectrank.linalg.implicit.kernel import (
    Axes,
    Grid,
    as_taps,
    checked_grid,
    positions,
    weighted_norm,
)
from spectrank.linalg.implicit.union import (
    block_values,
    schatten4_of,
    sorted_together,
    top_value,
)
from spectrank.linalg.operand import EPS
from spectrank.linalg.shapes import Matrix
from spectrank.linalg.spectrum import Spectrum
from spectrank.linalg.value import Value

# Complex entries of the blocks in one go: 64 MiB, and as much again to decompose them.
_BATCH_ENTRIES = 1 << 22


@final
@dataclass(frozen=True, eq=False)
class CircularConvolution(Implicit):
    """A convolution on a torus: inputs (in, *size), outputs (out, *size / stride).

    A shift of the input is a permutation, so where the kernel is anchored (the padding
    of a layer) changes no singular value; ``dense()`` anchors it at its first tap.

    Attributes:
        kernel: (out, in / groups, *taps), 1 to 3 spatial axes.
        size: Inputs along each axis; one number for all. May be below the taps, which
            then wrap around.
        stride: Step between two outputs; divides the size.
        dilation: Step between two taps.
        groups: Of the convolution.
    """

    kernel: Tensor
    size: Axes
    stride: Axes = 1
    dilation: Axes = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for side, step in zip(self.grid.size, self.grid.stride, strict=True):
            if side % step:
                raise DomainError(
                    "a convolution on a torus has strides that divide its size, got "
                    f"stride {step} with size {side}; choose a multiple of the stride"
                )

    @property
    def grid(self) -> Grid:
        """The numbers of the convolution."""
        return checked_grid(
            self.kernel, self.size, self.stride, self.dilation, self.groups
        )

    @property
    def outputs(self) -> tuple[int, ...]:
        """Outputs along each axis."""
        pairs = zip(self.grid.size, self.grid.stride, strict=True)
        return tuple(side // step for side, step in pairs)

    @property
    def shape(self) -> tuple[int, int]:
        """(out * outputs, in * inputs)."""
        grid = self.grid
        return grid.out * math.prod(self.outputs), grid.channels * grid.num_inputs

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The kernel."""
        return (self.kernel,)

    def with_factors(self, factors: tuple[Tensor, ...]) -> CircularConvolution:
        """The same with another kernel."""
        (kernel,) = factors
        return CircularConvolution(
            kernel, self.size, self.stride, self.dilation, self.groups
        )

    def dense(self) -> Matrix:
        """The matrix itself, rows (out, *outputs), columns (in, *inputs)."""
        grid, blocks = self.grid, as_taps(self.kernel.detach(), self.groups)
        m, n = math.prod(self.outputs), grid.num_inputs
        whole = blocks.new_zeros(grid.out, m, grid.channels, n)
        starts = positions(self.outputs) * torch.tensor(grid.stride)
        steps = positions(grid.taps) * torch.tensor(grid.dilation)
        g, out, channels, _ = blocks.shape
        for group in range(g):
            rows = slice(group * out, (group + 1) * out)
            columns = slice(group * channels, (group + 1) * channels)
            part = whole[rows, :, columns].permute(1, 3, 0, 2)
            for t, step in enumerate(steps):
                source = _flat((starts + step) % torch.tensor(grid.size), grid.size)
                part[torch.arange(m), source] += blocks[group, :, :, t]
        return whole.reshape(grid.out * m, grid.channels * n)

    def measure(self, settings: Settings) -> Spectrum:
        """By one small matrix per frequency."""
        taps, places = self._folded()
        g, out, channels, _ = taps.shape
        num_aliases = math.prod(self.grid.stride)
        # Of the taps as given: those that meet on the torus may cancel.
        given = as_taps(self.kernel, self.groups).movedim(-1, 1)
        lengths = torch.linalg.matrix_norm(given).sum(1)
        # Sums of so many terms, and the rounding of their phases.
        slack = (given.shape[1] + 16) * EPS * float(lengths.max())
        per_frequency = g * out * channels * num_aliases
        values, errors, total, by_svd = [], [], 0.0, False
        for frequencies, times in self._frequencies(per_frequency):
            blocks = self._blocks(taps, places, frequencies)
            zero = torch.full(blocks.shape[:1], slack, device=blocks.device)
            sigma, error, fourth, svd = block_values(
                blocks, small_end=settings.small_end, slack=zero.double()[:, None]
            )
            values += [sigma.flatten().cpu()] * times
            errors += [error.flatten().cpu()] * times
            total, by_svd = total + times * fourth, by_svd or svd
        sigma, error = sorted_together(torch.cat(values), torch.cat(errors))
        sides = (out, channels * num_aliases)
        relative = 4.0 * gram_error(max(sides), min(sides))
        return Spectrum(
            shape=self.shape,
            frobenius=self._frobenius(taps, lengths),
            sigma_max=top_value(sigma, error, settings.certify),
            schatten4=schatten4_of(
                total, relative + 4.0 * slack / float(sigma[0]) if total else relative
            ),
            sigma=sigma,
            sigma_error=error,
            route="fft-blocks-svd" if by_svd else "fft-blocks",
        )

    def _frobenius(self, taps: Tensor, lengths: Tensor) -> Value:
        """By the taps, each once an output; ``lengths`` of all as given, a group."""
        outputs, given = math.prod(self.outputs), math.prod(self.grid.taps)
        count = taps.shape[-1]
        norm = weighted_norm(taps.flatten(0, 1), torch.full((count,), outputs))
        if count == given:
            return norm
        added = given * EPS * float(torch.linalg.vector_norm(lengths))
        added *= math.sqrt(outputs)
        lower = max(norm.lower - added, 0.0)
        return replace(norm, lower=lower, upper=norm.upper + added)

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Taps (g, out, in, T) and places (T, d); taps that meet on the torus added."""
        grid, taps = self.grid, as_taps(self.kernel, self.groups)
        steps = positions(grid.taps) * torch.tensor(grid.dilation)
        places = steps % torch.tensor(grid.size)
        kept, index = torch.unique(places, dim=0, return_inverse=True)
        if len(kept) == len(places):
            return taps, places
        folded = taps.new_zeros(*taps.shape[:-1], len(kept))
        return folded.index_add_(-1, index.to(taps.device), taps), kept

    def _frequencies(self, per_frequency: int) -> Iterator[tuple[Tensor, int]]:
        """Batches of output frequencies up to sign, and how often each counts."""
        outputs = torch.tensor(self.outputs)
        every = positions(self.outputs)
        opposite = _flat((-every) % outputs, self.outputs)
        own = _flat(every, self.outputs)
        batch = max(_BATCH_ENTRIES // max(per_frequency, 1), 1)
        for chosen, times in ((own == opposite, 1), (own < opposite, 2)):
            for frequencies in torch.split(every[chosen], batch):
                if len(frequencies):
                    yield frequencies, times

    def _blocks(self, taps: Tensor, places: Tensor, frequencies: Tensor) -> Tensor:
        """Blocks (F g, out, aliases in) of some output frequencies."""
        grid = self.grid
        aliases = positions(grid.stride) * torch.tensor(self.outputs)
        # (F, S, T, d), whole numbers reduced before they become angles.
        waves = (frequencies[:, None] + aliases)[:, :, None] * places
        sides = torch.tensor(grid.size)
        turns = ((waves % sides).double() / sides).sum(-1).to(taps.device)
        angles = 2.0 * math.pi * turns
        g, out, channels, count = taps.shape
        # A complex product with a real kernel would do twice the work.
        flat = taps.reshape(-1, count).mT
        real, imaginary = angles.cos() @ flat, angles.sin() @ flat
        blocks = torch.complex(real, imaginary) / math.sqrt(len(aliases))
        f, s = blocks.shape[:2]
        split = blocks.reshape(f, s, g, out, channels).permute(0, 2, 3, 1, 4)
        return split.reshape(f * g, out, s * channels)


def _flat(index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Place of each index of a grid in its order."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return (index * torch.tensor(steps)).sum(-1)
