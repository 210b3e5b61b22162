"""`StableRankNorm`: the parametrisation behind `stable_rank_norm`.

    W   the weight as stored (``parametrizations.<name>.original``)
    W'  the weight as used, top * s u v^T + rest * (W - s u v^T) with s = u^T W v

What holds for all unit u and v with s != 0: W' has at most the target stable rank,
because the two parts are orthogonal, so that ||W'||_F^2 = r (top s)^2 where it is
lowered, and ||W'||_2 >= u^T W' v = top s. Vectors that lag behind the weight can only
bring it below the target. At s = 0 exactly W is used as it is.

Numbers are those of W over a power of two near its largest entry, an exact constant:
squares of float32 entries of 1e-24 or 1e20 would leave its range. Groups of a
convolution are matrices of their own, one after the other along the first axis.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from spectrank.init.control.requests import (
    check_positive,
    checked_dim,
    checked_groups,
    target_rank,
)
from spectrank.init.control.triplet import top_triplet
from spectrank.linalg.ensembles.requests import check_choice
from spectrank.linalg.haar import check_generator
from spectrank.linalg.srn import SrnVariant, srn_factors
from spectrank.train.sinks.base import check_count

_SINGLE = (torch.float32, torch.float64)


class _Scaled(NamedTuple):
    """A matrix over a power of two that brings its largest entry near one."""

    W: Tensor
    size: Tensor


@final
class StableRankNorm(nn.Module):
    """The parametrisation behind `stable_rank_norm`, for a weight of one shape.

    Arguments are those of `stable_rank_norm`, with the weight in place of the module.

    Attributes:
        stable_rank: Target.
    """

    _u: Tensor
    _v: Tensor
    _seen: Tensor

    def __init__(
        self,
        weight: Tensor,
        stable_rank: float | None = None,
        *,
        fraction: float | None = None,
        variant: SrnVariant = "keep",
        spectral_norm: float | None = None,
        iterations: int = 1,
        exact: bool = False,
        dim: int = 0,
        groups: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._dim = checked_dim(weight, dim)
        self._groups = checked_groups(weight, groups)
        matrices = self._matrices(weight.detach())
        m, n = matrices[0].shape
        self.stable_rank = target_rank(stable_rank, fraction, m, n)
        check_choice("variant", variant, ("keep", "optimal"))
        check_count("iterations", iterations)
        self._variant: SrnVariant = variant
        if spectral_norm is not None:
            hint = "leave it out to keep the norm as it comes"
            spectral_norm = check_positive("spectral_norm", spectral_norm, hint)
        self._spectral_norm = spectral_norm
        if generator is not None:
            check_generator(generator)
        self._iterations, self._exact = iterations, exact
        pairs = [_start(W, generator) for W in matrices]
        # One group after the other.
        self.register_buffer("_u", torch.cat([u for u, _ in pairs]))
        self.register_buffer("_v", torch.cat([v for _, v in pairs]))
        # u^T W v and ||W||_F after the last iteration, by which a change of the weight
        # is noticed, with the power of two they are over: a version counter would miss
        # writes through .data, and the first number alone a change in rows that u does
        # not reach. As integers, the bits of float64, which module.to(bfloat16) does
        # not round.
        seen = weight.new_zeros((3 * self._groups,), dtype=torch.int64)
        self.register_buffer("_seen", seen)
        for k, W in enumerate(matrices):
            self._remember(k, _scaled(W))

    def forward(self, weight: Tensor) -> Tensor:
        """Return W' in the shape and dtype of the weight.

        Args:
            weight: As stored, of the shape given at construction.

        Returns:
            The weight to be used.
        """
        with torch.autocast(weight.device.type, enabled=False):
            blocks = weight.tensor_split(self._groups)
            moved = blocks[0].movedim(self._dim, 0).shape
            used = [
                self._used(k, W).reshape(moved).movedim(0, self._dim)
                for k, W in enumerate(self._matrices(weight))
            ]
            whole = used[0] if self._groups == 1 else torch.cat(used)
        return whole.to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the weight to store for one that is assigned: itself.

        The vectors are made exact for it. What is then used is W' of it: the same only
        where its stable rank is at most the target (and its norm ``spectral_norm``).

        Args:
            weight: As assigned.

        Returns:
            The same tensor.
        """
        with torch.no_grad():
            for k, W in enumerate(self._matrices(weight.detach())):
                pair = top_triplet(W)
                if pair is not None:
                    u, v = self._held(k)
                    u.copy_(pair.u)
                    v.copy_(pair.v)
                self._remember(k, _scaled(W))
        return weight

    def extra_repr(self) -> str:
        """Return the target and the variant, for ``print(module)``."""
        return f"stable_rank={self.stable_rank:g}, variant={self._variant!r}"

    def _matrices(self, weight: Tensor) -> list[Tensor]:
        single = weight if weight.dtype in _SINGLE else weight.to(torch.float32)
        blocks = single.tensor_split(self._groups)
        return [block.movedim(self._dim, 0).flatten(1) for block in blocks]

    def _used(self, k: int, W: Tensor) -> Tensor:
        scaled = _scaled(W)
        u, v = self._vectors(k, _Scaled(scaled.W.detach(), scaled.size))
        s = torch.dot(u, torch.mv(scaled.W, v))
        # Rank-one updates in one pass: twice as fast as with s u v^T formed.
        tail = torch.linalg.vector_norm(torch.addr(scaled.W, -s * u, v))
        # The part s u v^T is the same under (u, s) -> (-u, -s).
        top, rest = srn_factors(s.abs(), tail, self.stable_rank, variant=self._variant)
        if min(W.shape) == 1:
            # Of a vector the rest is rounding. Taken off, it would hold the vector to
            # the direction that it has: no gradient would turn it.
            rest = top
        # top * part + rest * (W - part), so that (1, 1) gives W bit for bit.
        if self._spectral_norm is None:
            # A root of the power to either vector: s itself may overflow.
            root = torch.sqrt(scaled.size)
            left = (top - rest) * s * (scaled.size / root) * u
            return torch.addr(rest * W, left, root * v)
        norm = top * s.abs()
        # A zero weight stays zero; its gradient must not become NaN.
        scale = self._spectral_norm / torch.where(norm > 0, norm, 1.0)
        top, rest = scale * top, scale * rest
        return torch.addr(rest * scaled.W, (top - rest) * s * u, v)

    @torch.no_grad()
    def _vectors(self, k: int, scaled: _Scaled) -> tuple[Tensor, Tensor]:
        """Unit vectors to use now; new tensors, which autograd may keep."""
        W = scaled.W
        if self._exact:
            pair = top_triplet(W)
            if pair is not None:
                return pair.u.to(W.dtype), pair.v.to(W.dtype)
        u, v = self._unit_vectors(k, W)
        if not self.training:
            return u, v
        changed = (_fingerprint(scaled, u, v) != self._seen_of(k)).any()
        new_u, new_v = u, v
        for _ in range(self._iterations):
            new_u = _unit(torch.mv(W, new_v), new_u)
            new_v = _unit(torch.mv(W.T, new_u), new_v)
        # Chosen on the device: asking the host would wait for it at every forward.
        # What is kept is kept bit for bit: normalising it again would round.
        held_u, held_v = self._held(k)
        held_u.copy_(torch.where(changed, new_u.to(held_u), held_u))
        held_v.copy_(torch.where(changed, new_v.to(held_v), held_v))
        self._remember(k, scaled)
        return self._unit_vectors(k, W)

    def _held(self, k: int) -> tuple[Tensor, Tensor]:
        return (
            self._u.tensor_split(self._groups)[k],
            self._v.tensor_split(self._groups)[k],
        )

    def _seen_of(self, k: int) -> Tensor:
        return self._seen[3 * k : 3 * k + 3]

    def _unit_vectors(self, k: int, W: Tensor) -> tuple[Tensor, Tensor]:
        u, v = self._held(k)
        return _unit(u.to(W.dtype)), _unit(v.to(W.dtype))

    def _remember(self, k: int, scaled: _Scaled) -> None:
        seen = _fingerprint(scaled, *self._unit_vectors(k, scaled.W))
        self._seen_of(k).copy_(seen)


def _scaled(W: Tensor) -> _Scaled:
    largest = W.detach().abs().amax()
    usable = torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)
    # Exact, and no larger than half of the next power, which may overflow. Entries that
    # are no normal numbers are left below one: the inverse would overflow.
    size = usable / (2.0 * torch.frexp(usable).mantissa)
    size = size.clamp_min(torch.finfo(W.dtype).tiny)
    return _Scaled(W / size, size)


def _fingerprint(scaled: _Scaled, u: Tensor, v: Tensor) -> Tensor:
    s = torch.dot(u, torch.mv(scaled.W, v))
    seen = torch.stack([s, torch.linalg.vector_norm(scaled.W), scaled.size])
    return seen.to(torch.float64).view(torch.int64)


def _unit(x: Tensor, otherwise: Tensor | None = None) -> Tensor:
    """Return x over its norm; ``otherwise`` where x is zero."""
    norm = torch.linalg.vector_norm(x)
    if otherwise is None:
        return torch.div(x, norm)
    return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1.0), otherwise)


def _start(W: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    pair = top_triplet(W)
    if pair is not None:
        return pair.u.to(W.dtype), pair.v.to(W.dtype)
    own = torch.Generator().manual_seed(0) if generator is None else generator
    drawn = [
        _unit(torch.randn(k, generator=own, device=own.device, dtype=torch.float64))
        for k in W.shape
    ]
    u, v = (x.to(W) for x in drawn)
    return u, v
