"""Ensemble: a law of matrices, its moments, and its draws at any scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.ensembles.law import Law, Matrices, SpectralMoments
from spectrank.linalg.ensembles.requests import check_norm
from spectrank.linalg.haar import make_draws
from spectrank.linalg.measure import spectrum as measure_spectrum
from spectrank.linalg.value import Value


@final
@dataclass(frozen=True, eq=False)
class MeasuredSample:
    """A draw and what was achieved, measured on the matrix as it is stored.

    Attributes:
        matrix: (m, n).
        stable_rank: With its enclosure.
        participation_ratio: With its enclosure.
    """

    matrix: Tensor
    stable_rank: Value
    participation_ratio: Value


@final
@dataclass(frozen=True, repr=False)
class Ensemble:
    """A law of (m, n) matrices, normalised to a largest singular value of one.

    Made by ``ensemble``, which checks the request.

    Attributes:
        m: Number of outputs (rows).
        n: Number of inputs (columns).
        spectrum: Name of the law of the singular values.
        law: The law itself.
    """

    m: int
    n: int
    spectrum: str
    law: Law

    def __repr__(self) -> str:
        r = self.stable_rank
        rank = "random stable rank" if r is None else f"stable_rank={r:.6g}"
        return f"Ensemble({self.m} x {self.n}, {self.spectrum}, {rank})"

    @property
    def stable_rank(self) -> float | None:
        """Stable rank of every draw, in [1, min(m, n)]; None for ``gaussian``."""
        return self.law.stable_rank

    @property
    def moments(self) -> SpectralMoments:
        """Moments of the squared singular values at s_1 = 1.

        Exact, but for ``temper``: there a2 is a mean over drawn spectra and carries its
        standard error. For ``mp-spike`` they include draws that ``sample`` refuses.
        ``gaussian`` is normalised by (sqrt m + sqrt n) times its standard deviation.
        """
        return self.law.moments

    @property
    def participation_ratio(self) -> float:
        r""":math:`\rho = E (\sum s^2)^2 / E \sum s^4`, in [stable_rank, min(m, n)]."""
        return self.moments.participation_ratio

    def spectral_norm(self, frobenius_norm: float) -> float:
        r"""Spectral norm at which :math:`E \|W\|_F^2` is the square of the argument.

        Args:
            frobenius_norm: The Frobenius norm wanted.

        Returns:
            ``frobenius_norm / sqrt(a1)``.
        """
        return check_norm("frobenius_norm", frobenius_norm) / math.sqrt(self.law.a1)

    def sample(
        self,
        generator: torch.Generator,
        *,
        spectral_norm: float | None = None,
        frobenius_norm: float | None = None,
        num: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Matrices:
        """Draw a matrix; the same generator state gives the same one.

        The stable rank is met to 1e-10 relative in float64, 1e-4 in float32; bfloat16
        and float16 are computed in float32 and cast, 2e-2 (`sample_measured` tells the
        value achieved). For ``gaussian`` the norms are those of the expectation:
        E ||W||_F^2, and (sqrt m + sqrt n) times the standard deviation.

        Args:
            generator: Source of randomness; numbers are drawn on its device.
            spectral_norm: Largest singular value; 1 by default.
            frobenius_norm: Frobenius norm, in place of ``spectral_norm``.
            num: Matrices drawn at once; None for one without a leading axis.
            dtype: float64, float32, bfloat16 or float16.
            device: Where the result lives; None for the generator's device.

        Returns:
            (m, n), or (num, m, n).

        Raises:
            ArgumentTypeError: If the generator is none or a norm is not a number.
            DomainError: If a norm or dtype cannot be served, nothing drawn; or the bulk
                of an ``mp-spike`` draw has a singular value above the spike.
        """  # noqa: DOC502 - some are raised by the functions called
        size = self._size(spectral_norm, frobenius_norm)
        draws = make_draws(generator, num=num, dtype=dtype, device=device)
        check_range(size, dtype)
        W = self.law.draw(draws)
        # QR gives columns; a weight is stored by rows.
        return (W if size == 1.0 else W.mul_(size)).to(dtype).contiguous()

    def sample_(
        self,
        W: Tensor,
        generator: torch.Generator,
        *,
        spectral_norm: float | None = None,
        frobenius_norm: float | None = None,
    ) -> Tensor:
        """Fill a matrix in place, as `torch.nn.init` does; without autograd.

        Nothing is written if the request or the draw is refused.

        Args:
            W: (m, n) floating-point tensor, any strides; may require gradients.
            generator: Source of randomness.
            spectral_norm: Largest singular value; 1 by default.
            frobenius_norm: Frobenius norm, in place of ``spectral_norm``.

        Returns:
            The same tensor.

        Raises:
            ArgumentTypeError: If ``W`` is not a tensor.
            ShapeError: If ``W`` is not (m, n).
            DomainError: As `sample`, and if ``W`` has no storage.
        """
        if not isinstance(W, Tensor):
            raise ArgumentTypeError(
                f"sample_ fills a torch.Tensor, got {type(W).__name__}; "
                "pass the weight itself, e.g. layer.weight"
            )
        if tuple(W.shape) != (self.m, self.n):
            raise ShapeError(
                f"this ensemble fills a {self.m} x {self.n} matrix, got shape "
                f"{tuple(W.shape)}; make one for that shape, or pass a view of it"
            )
        if W.device.type == "meta":
            raise DomainError(
                "sample_ fills a tensor that has storage, got one on the meta device; "
                "materialise it first, e.g. module.to_empty(device='cpu')"
            )
        drawn = self.sample(
            generator,
            spectral_norm=spectral_norm,
            frobenius_norm=frobenius_norm,
            dtype=W.dtype,
            device=W.device,
        )
        with torch.no_grad():
            return W.copy_(drawn)

    def sample_measured(
        self,
        generator: torch.Generator,
        *,
        spectral_norm: float | None = None,
        frobenius_norm: float | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> MeasuredSample:
        """Draw as `sample` does and measure what was achieved; costs a Gram matrix.

        Args:
            generator: Source of randomness.
            spectral_norm: Largest singular value; 1 by default.
            frobenius_norm: Frobenius norm, in place of ``spectral_norm``.
            dtype: float64, float32, bfloat16 or float16.
            device: Where the result lives; None for the generator's device.

        Returns:
            The matrix with its own stable rank and participation ratio.
        """
        W = self.sample(
            generator,
            spectral_norm=spectral_norm,
            frobenius_norm=frobenius_norm,
            dtype=dtype,
            device=device,
        )
        found = measure_spectrum(W, ("frobenius", "sigma_max", "schatten4"))
        assert found.schatten4 is not None
        top = float(min(self.m, self.n))
        return MeasuredSample(
            W,
            ((found.frobenius / found.sigma_max) ** 2).clip(1.0, top),
            ((found.frobenius / found.schatten4) ** 4).clip(1.0, top),
        )

    def _size(self, spectral_norm: float | None, frobenius_norm: float | None) -> float:
        if frobenius_norm is None:
            return check_norm(
                "spectral_norm", 1.0 if spectral_norm is None else spectral_norm
            )
        if spectral_norm is not None:
            raise DomainError(
                "one norm sets the scale at a given stable rank, got spectral_norm="
                f"{spectral_norm} and frobenius_norm={frobenius_norm}; leave one out"
            )
        return self.spectral_norm(frobenius_norm)


def check_range(size: float, dtype: torch.dtype) -> None:
    """Refuse a spectral norm that a precision cannot hold.

    Args:
        size: The spectral norm.
        dtype: Of the matrix.

    Raises:
        DomainError: If it is too small or too large.
    """
    limits = torch.finfo(dtype)
    if not limits.tiny <= size <= limits.max:
        raise DomainError(
            f"a spectral norm in {dtype} lies in [{limits.tiny:g}, {limits.max:g}], "
            f"got {size:g}; draw in float64, or choose another scale"
        )
