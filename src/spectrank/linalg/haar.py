r"""Haar-distributed orthonormal frames, and the exact moments they give a matrix.

Everything random comes from a ``torch.Generator`` of the caller's; the global state is
neither read nor changed. Numbers are drawn on the generator's device and moved, so that
one state gives one result wherever the result lives. Half precision is computed in
float32 and cast.

    num  matrices drawn at once
    m    length of a column
    p    number of columns, at most m
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError
from spectrank.linalg.shapes import Shaped

Frame = Shaped[Tensor, "*num m p"]

_COMPUTED_IN = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
# E M_ij M_kl is only defined for moments that obey a2 <= a1^2 <= n a2; rounding of
# sums over thousands of values stays far below this.
_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Draws:
    """Where random numbers come from and what they become.

    Attributes:
        generator: Source of all numbers.
        num: Matrices drawn at once; None for one without a leading axis.
        dtype: float32 or float64, in which everything is computed.
        device: Where results live.
    """

    generator: torch.Generator
    num: int | None
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (*num, *shape)."""
        numbers = torch.randn(
            self._lead + shape,
            generator=self.generator,
            dtype=self.dtype,
            device=self.generator.device,
        )
        return numbers.to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Return float64 numbers (*num, *shape), uniform on [0, 1)."""
        numbers = torch.rand(
            self._lead + shape,
            generator=self.generator,
            dtype=torch.float64,
            device=self.generator.device,
        )
        return numbers.to(self.device)

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.num is None else (self.num,)


def make_draws(
    generator: torch.Generator,
    *,
    num: int | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> Draws:
    """Check a request for random matrices; nothing is drawn yet.

    Args:
        generator: Source of all numbers.
        num: Matrices drawn at once; None for one without a leading axis.
        dtype: Of the result: float64, float32, bfloat16 or float16.
        device: Where results live; None for the generator's own.

    Returns:
        The source, which computes in float32 at least.

    Raises:
        ArgumentTypeError: If the generator is none.
        DomainError: If ``num`` or the dtype is outside its range.
    """  # noqa: DOC502 - the first is raised by the function called
    check_generator(generator)
    if num is not None:
        num = check_count("num", num)
    if dtype not in _COMPUTED_IN:
        known = ", ".join(str(key).removeprefix("torch.") for key in _COMPUTED_IN)
        raise DomainError(
            f"a random matrix is drawn in {known}, got {dtype}; "
            "draw in float64 and convert"
        )
    place = generator.device if device is None else torch.device(device)
    return Draws(generator, num, _COMPUTED_IN[dtype], place)


def check_generator(generator: object) -> torch.Generator:
    """Refuse what is no source of randomness.

    Args:
        generator: As given.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: If it is no generator.
    """
    if not isinstance(generator, torch.Generator):
        raise ArgumentTypeError(
            f"randomness comes from a torch.Generator, got {type(generator).__name__}; "
            "pass torch.Generator().manual_seed(0)"
        )
    return generator


def check_count(name: str, x: object) -> int:
    """Refuse what is not a whole number of at least one.

    Args:
        name: Of the argument, for the message.
        x: Its value.

    Returns:
        The same as an int.

    Raises:
        ArgumentTypeError: If it is not an integer.
        DomainError: If it is below one.
    """
    if isinstance(x, bool) or not isinstance(x, Integral):
        raise ArgumentTypeError(
            f"{name} is a whole number, got {x!r}; convert first, e.g. int({name})"
        )
    count = int(x)
    if count < 1:
        raise DomainError(
            f"{name} must be at least 1, got {x}; an empty matrix has no "
            "singular values to prescribe"
        )
    return count


def haar(
    m: int,
    p: int,
    *,
    generator: torch.Generator,
    num: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Frame:
    r"""Orthonormal columns, uniform on the Stiefel manifold.

    The law of :math:`RQ` is that of :math:`Q` for every orthogonal :math:`R`.
    QR of a Gaussian matrix, column i times the sign of :math:`R_{ii}`. Without the sign
    the law is that of the QR routine (with Householder reflections
    :math:`E Q_{00} = -3/8` at m = 5 in place of 0). :math:`E Q_{ij}^4 = 3/(m(m+2))`.
    Source (derived): tests/linalg/test_haar.py.

    Args:
        m: Length of a column.
        p: Number of columns, in [1, m].
        generator: Source of randomness.
        num: Frames drawn at once; None for one without a leading axis.
        dtype: float64 or float32; bfloat16 and float16 are computed in float32.
        device: Where the result lives; None for the generator's own device.

    Returns:
        (m, p), or (num, m, p).

    Raises:
        ArgumentTypeError: If a size is no integer or the generator is none.
        DomainError: If p lies outside [1, m] or the dtype is not a real one.

    Example:
        >>> import torch
        >>> Q = haar(5, 3, generator=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(Q.T @ Q, torch.eye(3, dtype=torch.float64)))
        True
    """  # noqa: DOC502 - some are raised by the functions called
    m, p = check_count("m", m), check_count("p", p)
    if p > m:
        raise DomainError(
            f"p must lie in [1, {m}] when a column has length m = {m}, got {p}; "
            "draw haar(p, m) and transpose it"
        )
    draws = make_draws(generator, num=num, dtype=dtype, device=device)
    return frame(m, p, draws).to(dtype)


def frame(m: int, p: int, draws: Draws) -> Frame:
    """Return a Haar frame (*num, m, p) in the precision of ``draws``.

    Args:
        m: Length of a column.
        p: Number of columns, at most m.
        draws: Source of randomness.

    Returns:
        Orthonormal columns.
    """
    Q, R = torch.linalg.qr(draws.normal(m, p))
    # Not sign(): it would wipe out a column where R_ii is 0.
    signs = torch.ones_like(R.diagonal(dim1=-2, dim2=-1))
    signs[R.diagonal(dim1=-2, dim2=-1) < 0.0] = -1.0
    frames: Frame = Q.mul_(signs.unsqueeze(-2))
    return frames


def haar_moments(n: int, a1_squared: float, a2: float) -> tuple[float, float]:
    r"""Second moments of :math:`M = W^T W` for W with a Haar right factor.

    :math:`E M_{ij} M_{kl} = \alpha\,\delta_{ij}\delta_{kl}
    + \beta\,(\delta_{ik}\delta_{jl} + \delta_{il}\delta_{jk})`,
    :math:`\beta = (n a_2 - a_1^2) / (n(n-1)(n+2))`,
    :math:`\alpha = (a_1^2 - 2n\beta)/n^2`; at n = 1, :math:`\beta = 0` and
    :math:`\alpha = a_1^2`. Exact at every size. For random singular values pass the
    expectations; a variance then subtracts :math:`(E a_1)^2`, not :math:`E a_1^2`.
    Source (derived): tests/linalg/test_haar.py.

    Args:
        n: Number of inputs (columns of W); rows for :math:`W W^T`.
        a1_squared: :math:`E (\sum s_i^2)^2`.
        a2: :math:`E \sum s_i^4`, in [a1_squared / n, a1_squared].

    Returns:
        alpha and beta.

    Raises:
        DomainError: If no n singular values have these moments.

    Example:
        >>> haar_moments(4, 16.0, 4.0)  # an orthogonal matrix: M is the identity
        (1.0, 0.0)
    """
    check_count("n", n)
    low, high = a1_squared / n * (1.0 - _SLACK), a1_squared * (1.0 + _SLACK)
    if not (a1_squared >= 0.0 and low <= a2 <= high):
        raise DomainError(
            f"moments of {n} singular values obey a1_squared / {n} <= a2 <= a1_squared,"
            f" got a1_squared = {a1_squared}, a2 = {a2}; pass E a1^2, not (E a1)"
        )
    if n == 1:
        return float(a1_squared), 0.0
    beta = (n * a2 - a1_squared) / (n * (n - 1) * (n + 2))
    return (a1_squared - 2.0 * n * beta) / n**2, beta
