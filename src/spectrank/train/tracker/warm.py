r"""The largest singular value of a moving matrix from a vector carried along.

A tick takes one or a few half steps of power iteration, x <- W^T W x, from the vector
of the tick before: weights move little in a step, so the vector stays near the top.

What a tick knows, with u the unit roundoff of the products and
gamma_k = k u / (1 - k u):

- Lower end, proved: ``||W x|| / ||x|| <= sigma_1`` for any x. The computed product errs
  by at most ``gamma_n ||W||_F ||x||`` whatever the order of its sums (n the length of
  x), its length by ``gamma_m``.
- Frobenius norm, proved: norms of rows in the products' precision, summed in float64.
- Upper end, proved: ``sigma_1 <= ||W||_F``. Nothing better is known of a direction that
  no vector has looked at. With an anchor, the matrix W_s of the last full enclosure,
  ``sigma_1(W) <= sigma_1(W_s) + ||W - W_s||_F``, as probable as that enclosure.

So a crossing, where another direction overtakes the carried one, can make the value
too small but never the enclosure wrong. A little of a fixed random vector is mixed in
at every full step, so that a new top direction has a component to grow from, and a
full enclosure from a fresh start comes now and then.

Source (stated): Higham (2002), Accuracy and Stability of Numerical Algorithms, section
3.1: ``|fl(x^T y) - x^T y| <= gamma_n |x|^T |y|`` for any order of summation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spectrank.linalg.enclosure import start_vector
from spectrank.linalg.operand import ldexp
from spectrank.linalg.spectrum import Spectrum
from spectrank.linalg.value import Value
from spectrank.train.tracker.enclose import Enclosed

# Share of the fixed random vector after a full step: costs about its square, 1e-4.
_NOISE = 0.01
# Squares of entries and their sums are harmless in float32 for norms in this range.
_SAFE_LOW, _SAFE_HIGH = 2.0**-60, 2.0**60
# Roundings of a norm's square root and of a normalisation, in units of u.
_FEW = 8


@dataclass(frozen=True)
class Tick:
    """What was computed at one tick, in Python numbers.

    Attributes:
        length: ``||W x||``, of the scaled matrix as everything here.
        frobenius: Frobenius norm.
        turn: How far the right vector turned in the last full step, the sine of the
            angle; NaN before the first.
        moved: ``||W - W_s||_F``; NaN without an anchor.
    """

    length: float
    frobenius: float
    turn: float
    moved: float

    @property
    def trusted(self) -> bool:
        """Whether the products can neither have overflowed nor underflowed."""
        in_range = _SAFE_LOW < self.frobenius < _SAFE_HIGH
        return in_range and 0.0 < self.length < math.inf


@final
class WarmStart:
    """A vector near the top of one matrix, and what is known from following it.

    Args:
        shape: (m, n) of the matrix.
        num_ticks: Ticks between two calls of ``read``, at most.
        scratch: Where differences from the anchor are formed, shared by matrices of
            one shape; None without an anchor, the matrix of the last full enclosure.

    Attributes:
        shape: (m, n) of the matrix.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        num_ticks: int,
        scratch: dict[tuple[int, int], Tensor] | None,
    ) -> None:
        self.shape = shape
        self._scratch = scratch
        self._ready = False
        self._record: Tensor | None = None
        self._anchor: Tensor | None = None
        self._anchor_top: Value | None = None
        self._exponent = 0
        self._notes = [_Note(0, 0, 0, None)] * num_ticks

    @property
    def ready(self) -> bool:
        """Whether there is a vector to start from."""
        return self._ready

    def restart(self, W: Tensor, enclosed: Enclosed, noise_seed: int) -> None:
        """Go on from the vector of a full enclosure.

        Args:
            W: (m, n) matrix that was enclosed.
            enclosed: Its norms and vector.
            noise_seed: Of the random vector that is mixed in from now on.
        """
        self._ready = enclosed.vector is not None
        if enclosed.vector is None:
            return
        m, n = self.shape
        dtype = torch.float64 if W.dtype == torch.float64 else torch.float32
        self._exponent = enclosed.exponent
        self._right = m >= n
        unit = enclosed.vector / torch.linalg.vector_norm(enclosed.vector)
        self._x = unit.to(dtype)
        self._before = self._x if self._right else None
        noise = start_vector(n, noise_seed, W.device)
        self._noise = (noise / torch.linalg.vector_norm(noise)).to(dtype)
        self._turn = torch.full((), math.nan, dtype=torch.float64, device=W.device)
        if self._record is None:
            self._record = torch.full(
                (len(self._notes), 4), math.nan, dtype=torch.float64, device=W.device
            )
            # Views made once: indexing a tensor costs as much as a small kernel.
            self._cells = [row.unbind() for row in self._record.unbind()]
        if self._scratch is not None:
            self._anchor = W.detach().clone()
            self._anchor_top = enclosed.spectrum.sigma_max

    def tick(self, k: int, W: Tensor, num_products: int) -> None:
        """Take half steps of power iteration; nothing is copied to the host.

        Args:
            k: Number of the tick since the last ``read``.
            W: (m, n) matrix as it is now.
            num_products: Half steps, at least one.
        """
        length, frobenius, turn, moved = self._cells[k]
        a = _scaled(W, self._exponent, self._x.dtype)
        # Norms before products: they read faster what has to come from memory.
        together = 1 if a.stride(1) == 1 else 0
        _norm_by_rows(a, together, frobenius)
        for _ in range(num_products):
            terms = len(self._x)
            y = torch.mv(a if self._right else a.T, self._x)
            torch.linalg.vector_norm(y, dtype=torch.float64, out=length)
            y.div_(length)
            self._x = y if self._right else self._mixed(y)
            self._right = not self._right
        turn.copy_(self._turn)
        self._notes[k] = _Note(
            self._exponent, terms, self.shape[together], self._anchor_top
        )
        if self._anchor is not None:
            apart = self._difference(a)
            _norm_by_rows(apart, together, moved)

    def _mixed(self, z: Tensor) -> Tensor:
        """Note how far the unit vector z turned, and mix a little noise in."""
        if self._before is not None:
            self._turn = torch.linalg.vector_norm(z - self._before, dtype=torch.float64)
        x = torch.add(z, self._noise, alpha=_NOISE)
        self._before = x.div_(torch.linalg.vector_norm(x, dtype=torch.float64))
        return self._before

    def _difference(self, a: Tensor) -> Tensor:
        assert self._scratch is not None
        assert self._anchor is not None
        buffer = self._scratch.get(self.shape)
        if buffer is None or buffer.dtype != a.dtype or buffer.device != a.device:
            buffer = self._scratch[self.shape] = torch.empty_like(a)
        anchor = _scaled(self._anchor, self._exponent, a.dtype)
        return torch.sub(a, anchor, out=buffer)

    def look(self, k: int) -> Tick:
        """Return one tick at once; waits for the device."""
        assert self._record is not None
        return Tick(*self._record[k].tolist())

    def read(self, num_ticks: int) -> list[Tick]:
        """Return the ticks since the last call; one copy from the device.

        Args:
            num_ticks: How many there were.

        Returns:
            One a tick; NaN, or what an earlier round left, where none was taken.
        """
        if self._record is None:
            return [Tick(math.nan, math.nan, math.nan, math.nan)] * num_ticks
        return [Tick(*row) for row in self._record[:num_ticks].tolist()]

    def norms(self, k: int, tick: Tick, *, rtol: float) -> Spectrum | None:
        """Return what a tick tells of the norms.

        Args:
            k: Its number.
            tick: What was computed.
            rtol: The value is not converged where the vector turned by more than
                twice this in a full step.

        Returns:
            Norms with their ends; None where the numbers left the range in which they
            can be trusted.
        """
        if not tick.trusted:
            return None
        note = self._notes[k]
        dtype = self._x.dtype
        u = torch.finfo(dtype).eps / 2.0
        row_error = _gamma(note.row_length + _FEW, u)
        frobenius = Value.around(
            tick.frobenius, tick.frobenius * row_error, "certified"
        )
        slack = _gamma(note.terms + _FEW, u) + _input_rounding(dtype)
        lower = tick.length * (1.0 - _FEW * u) - slack * frobenius.upper
        sigma = Value(tick.length, max(lower, 0.0), frobenius.upper, "certified")
        if note.top is not None and not math.isnan(tick.moved):
            away = tick.moved * (1.0 + row_error)
            sigma = _reached(sigma, note.top, away, note.exponent)
        sigma = replace(sigma, value=min(sigma.value, sigma.upper))
        return Spectrum(
            shape=self.shape,
            frobenius=_unscaled(frobenius, note.exponent),
            sigma_max=_unscaled(_judged(sigma, tick.turn, rtol), note.exponent),
            schatten4=None,
            sigma=None,
            sigma_error=None,
            route="warm-start",
        )


@dataclass(frozen=True)
class _Note:
    """What the host knows of a tick: scale, lengths of its sums, anchor."""

    exponent: int
    terms: int
    row_length: int
    top: Value | None


def _reached(sigma: Value, top: Value, away: float, exponent: int) -> Value:
    """Use ``sigma_1(W_s) + ||W - W_s||_F`` as upper end where it is the lower one."""
    reach = (math.ldexp(top.upper, -exponent) + away) * (1.0 + 1e-15)
    if reach >= sigma.upper:
        return sigma
    return replace(
        sigma,
        upper=max(reach, sigma.lower),
        error_kind=top.error_kind,
        failure_probability=top.failure_probability,
    )


def _judged(sigma: Value, turn: float, rtol: float) -> Value:
    """Mark a value whose vector has not settled."""
    # ||W^T W x - s^2 x|| = s^2 turn to first order, so some singular value lies within
    # turn / 2 of s, relatively; a larger turn says nothing of use.
    if math.isnan(turn) or turn <= 2.0 * rtol:
        return sigma
    reason = (
        f"the top singular vector turned by {turn:.2g} in a step of power iteration, "
        f"more than 2 rtol = {2.0 * rtol:g}; it has not caught up with the weights"
    )
    return replace(sigma, status="not_converged", reason=reason)


def _scaled(W: Tensor, exponent: int, dtype: torch.dtype) -> Tensor:
    if not exponent:
        return W.to(dtype)
    # Scale in float64, before narrowing: 1e200 has no float32.
    return ldexp(W.to(torch.float64), -exponent).to(dtype)


def _unscaled(value: Value, exponent: int) -> Value:
    if not exponent:
        return value
    # Two factors: 2**1024 itself overflows.
    half = exponent // 2
    return value * 2.0**half * 2.0 ** (exponent - half)


def _norm_by_rows(a: Tensor, together: int, out: Tensor) -> None:
    """Frobenius norm by way of rows, or of columns where those lie together."""
    rows = torch.linalg.vector_norm(a, dim=together)
    torch.linalg.vector_norm(rows, dtype=torch.float64, out=out)


def _gamma(k: int, u: float) -> float:
    return k * u / (1.0 - k * u) if k * u < 1.0 else math.inf


def _input_rounding(dtype: torch.dtype) -> float:
    """Rounding of the factors where the user allows coarser float32 products."""
    mode = torch.get_float32_matmul_precision()
    if dtype != torch.float32 or mode == "highest":
        return 0.0
    # TensorFloat-32 keeps 11 bits, bfloat16 keeps 8; both factors are rounded.
    return 2.0 * (2.0**-11 if mode == "high" else 2.0**-8) * 1.01
