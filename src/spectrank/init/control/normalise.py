"""Stable rank normalisation of a layer's weight, as a torch parametrisation.

    W   the weight as stored (``parametrizations.<name>.original``)
    W'  the weight as used, top * s u v^T + rest * (W - s u v^T) with s = u^T W v

What holds for all unit u and v with s != 0: W' has at most the target stable rank,
because the two parts are orthogonal, so that ||W'||_F^2 = r (top s)^2 where it is
lowered, and ||W'||_2 >= u^T W' v = top s. Vectors that lag behind the weight can only
bring it below the target. At s = 0 exactly W is used as it is.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize

from spectrank.init.control.requests import (
    checked_dim,
    needed_weight,
    target_rank,
)
from spectrank.init.control.triplet import top_triplet
from spectrank.linalg.ensembles.requests import check_choice, check_norm
from spectrank.linalg.haar import check_generator
from spectrank.linalg.srn import SrnVariant, srn_factors
from spectrank.train.sinks.base import check_count

_SINGLE = (torch.float32, torch.float64)


def stable_rank_norm(
    module: nn.Module,
    stable_rank: float | None = None,
    *,
    fraction: float | None = None,
    name: str = "weight",
    variant: SrnVariant = "keep",
    spectral_norm: float | None = None,
    iterations: int = 1,
    exact: bool = False,
    dim: int | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Keep the stable rank of a layer's weight at or below a target while it trains.

    The layer uses :math:`W' = a\, s u v^T + b\,(W - s u v^T)`, :math:`s = u^T W v`,
    with (a, b) from `spectrank.linalg.srn.srn_factors`; W itself is what the optimizer
    updates. It only lowers: a weight below the target is used as it is. Biases and
    norms are untouched, except that ``spectral_norm`` sets s of W' to a number.

    Vectors: buffers, exact when the layer is registered or its weight assigned
    (``layer.weight = X``), then ``iterations`` steps of power iteration at the first
    training-mode forward after each change of the weight, at no further one and never
    in evaluation mode. So several uses of a layer in one step, gradient accumulation,
    checkpointing and `torch.nn.utils.parametrize.cached` all see the same W'.

    Differentiated: s, ||W - s u v^T||_F and W; u and v are constants, as in spectral
    normalisation. That is the exact derivative of the map for fixed u and v; the turn
    of u v^T with W, of size (a - b) s_1 |d(u v^T)|, is left out, also where ``exact``.

    Undo: ``torch.nn.utils.parametrize.remove_parametrizations(module, name)``.

    Source (stated): Sanyal et al. (2020), arXiv:1906.04659, and its public code for
    ``variant="keep"``. Source (derived): the bound on the stable rank for any u, v,
    test_control_normalise.py::test_target_is_not_exceeded_whatever_the_vectors.

    Args:
        module: Linear, ConvNd, ConvTransposeNd, or any module with such a parameter.
        stable_rank: Target r in [1, min(m, n)] of the matrix (m, n) below.
        fraction: Target as a share of min(m, n) in its place, at least 1 in all.
        name: Of the parameter.
        variant: ``keep`` leaves s_1; ``optimal`` is nearest to W in Frobenius norm.
        spectral_norm: s of W'; None leaves it as it comes.
        iterations: Steps of power iteration after each change of the weight.
        exact: Exact vectors at every forward, in both modes, in place of the buffers.
        dim: Axis of the outputs, the rows of the matrix, all others being its columns;
            None is 0, or 1 for transposed convolutions.
        generator: Draws the vectors of a weight that is zero; None for fixed ones.

    Returns:
        The module, changed in place.

    Raises:
        ArgumentTypeError: ``module`` is no module, or has no parameter of that name.
        DomainError: A target or a number outside its range.
        ShapeError: The parameter is no matrix or kernel.

    Example:
        >>> layer = stable_rank_norm(nn.Linear(64, 32), 4)
        >>> sigma = torch.linalg.svdvals(layer.weight.detach())
        >>> round(float(sigma.square().sum() / sigma[0] ** 2), 4)
        4.0
    """  # noqa: DOC502 - raised by the functions called
    weight = needed_weight(module, name)
    if dim is None:
        dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    normalise = StableRankNorm(
        weight,
        stable_rank,
        fraction=fraction,
        variant=variant,
        spectral_norm=spectral_norm,
        iterations=iterations,
        exact=exact,
        dim=dim,
        generator=generator,
    )
    normalise.train(module.training)
    parametrize.register_parametrization(module, name, normalise)
    return module


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
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._dim = checked_dim(weight, dim)
        W = self._matrix(weight.detach())
        m, n = W.shape
        self.stable_rank = target_rank(stable_rank, fraction, m, n)
        check_choice("variant", variant, ("keep", "optimal"))
        check_count("iterations", iterations)
        self._variant: SrnVariant = variant
        self._spectral_norm = (
            None
            if spectral_norm is None
            else check_norm("spectral_norm", spectral_norm)
        )
        if generator is not None:
            check_generator(generator)
        self._iterations, self._exact = iterations, exact
        u, v = _start(W, generator)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)
        # u^T W v and ||W||_F after the last iteration, by which a change of the weight
        # is noticed: a version counter would miss writes through .data, and the first
        # number alone a change in rows that u does not reach. As integers, the bits of
        # float64, which module.to(bfloat16) does not round.
        self.register_buffer("_seen", W.new_zeros(2, dtype=torch.int64))
        self._remember(W)

    def forward(self, weight: Tensor) -> Tensor:
        """Return W' in the shape and dtype of the weight.

        Args:
            weight: As stored, of the shape given at construction.

        Returns:
            The weight to be used.
        """
        with torch.autocast(weight.device.type, enabled=False):
            W = self._matrix(weight)
            u, v = self._vectors(W.detach())
            s = torch.dot(u, torch.mv(W, v))
            # Rank-one updates in one pass: twice as fast as with s u v^T formed.
            tail = torch.linalg.vector_norm(torch.addr(W, -s * u, v))
            top, rest = srn_factors(
                # The part s u v^T is the same under (u, s) -> (-u, -s).
                s.abs(),
                tail,
                self.stable_rank,
                variant=self._variant,
            )
            if self._spectral_norm is not None:
                norm = top * s.abs()
                # A zero weight stays zero; its gradient must not become NaN.
                scale = self._spectral_norm / torch.where(norm > 0, norm, 1.0)
                top, rest = scale * top, scale * rest
            # top * part + rest * (W - part), so that (1, 1) gives W bit for bit.
            used = torch.addr(rest * W, (top - rest) * s * u, v)
        moved = weight.movedim(self._dim, 0).shape
        shaped: Tensor = used.reshape(moved).movedim(0, self._dim)
        return shaped.to(weight.dtype)

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
            W = self._matrix(weight.detach())
            pair = top_triplet(W)
            if pair is not None:
                self._u.copy_(pair.u)
                self._v.copy_(pair.v)
            self._remember(W)
        return weight

    def extra_repr(self) -> str:
        """Return the target and the variant, for ``print(module)``."""
        return f"stable_rank={self.stable_rank:g}, variant={self._variant!r}"

    def _matrix(self, weight: Tensor) -> Tensor:
        W = weight.movedim(self._dim, 0).flatten(1)
        return W if W.dtype in _SINGLE else W.to(torch.float32)

    @torch.no_grad()
    def _vectors(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors to use now; new tensors, which autograd may keep."""
        if self._exact:
            pair = top_triplet(W)
            if pair is not None:
                return pair.u.to(W.dtype), pair.v.to(W.dtype)
        u, v = _unit(self._u.to(W.dtype)), _unit(self._v.to(W.dtype))
        if not self.training:
            return u, v
        changed = (_fingerprint(W, u, v) != self._seen).any()
        new_u, new_v = u, v
        for _ in range(self._iterations):
            new_u = _unit(torch.mv(W, new_v), new_u)
            new_v = _unit(torch.mv(W.T, new_u), new_v)
        # Chosen on the device: asking the host would wait for it at every forward.
        # What is kept is kept bit for bit: normalising it again would round.
        self._u.copy_(torch.where(changed, new_u.to(self._u), self._u))
        self._v.copy_(torch.where(changed, new_v.to(self._v), self._v))
        self._remember(W)
        return _unit(self._u.to(W.dtype)), _unit(self._v.to(W.dtype))

    def _remember(self, W: Tensor) -> None:
        u, v = _unit(self._u.to(W.dtype)), _unit(self._v.to(W.dtype))
        self._seen.copy_(_fingerprint(W, u, v))


def _fingerprint(W: Tensor, u: Tensor, v: Tensor) -> Tensor:
    seen = torch.stack([torch.dot(u, torch.mv(W, v)), torch.linalg.vector_norm(W)])
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
