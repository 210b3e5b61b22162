r"""Polylines: curves that are linear between their vertices.

    V  vertices      S = V - 1  segments

A point is (segment s, t in [0, 1)) and stands for :math:`(1-t) v_s + t v_{s+1}`; the
last vertex is (S, 0). Every vertex is thus a point with t = 0, exactly.
"""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from spectrank.errors import ArgumentTypeError, DomainError, ShapeError
from spectrank.linalg.shapes import Float64, Shaped

# Chords of at most a quarter turn keep well away from the origin.
_LARGEST_STEP = math.pi / 2


def arc(
    start: Tensor, toward: Tensor, *, angle: float = math.pi
) -> Float64[Tensor, "V d"]:
    r"""Polyline whose vertices lie on a great circle, for nets without biases.

    Vertices :math:`|x| (\cos\theta_k\, e_1 + \sin\theta_k\, e_2)` with e_1 along x and
    e_2 the part of y across it, at equal steps of at most a quarter turn. A positively
    homogeneous network (ReLU, leaky ReLU or abs, no biases) has the same sign pattern
    at z and at every positive multiple of z, so the chords meet exactly the kinks of
    the arc. With biases, or hardtanh, they do not; and the *length* of an image is that
    of the chords' image, whatever the network. The angular length is ``angle``.
    Source (derived): tests/propagation/pieces/test_pieces_grids.py.

    Args:
        start: x, (d,), not zero.
        toward: y, (d,), not parallel to x.
        angle: Angular length in radians, in (0, 2 pi].

    Returns:
        (V, d) float64 vertices, the first of them x.

    Raises:
        ArgumentTypeError: Not floating-point tensors.
        ShapeError: Not two vectors of one length.
        DomainError: A vector of zeros, parallel vectors, or an angle out of range.

    Example:
        >>> import torch
        >>> arc(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 2.0])).round(decimals=6)
        tensor([[ 1.,  0.],
                [ 0.,  1.],
                [-1.,  0.]], dtype=torch.float64)
    """
    for given in (start, toward):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            tensor = isinstance(given, Tensor)
            what = f"a tensor of {given.dtype}" if tensor else type(given).__name__
            way = "convert it with .double()" if tensor else _convert(given)
            raise ArgumentTypeError(
                "an arc goes from one floating-point vector toward another, got "
                f"{what}; {way}"
            )
    if start.ndim != 1 or start.shape != toward.shape or len(start) < 2:
        raise ShapeError(
            "an arc needs two vectors of one length, at least 2, got shapes "
            f"{tuple(start.shape)} and {tuple(toward.shape)}; flatten them"
        )
    if not 0.0 < angle <= 2.0 * math.pi:
        raise DomainError(
            f"angle must lie in (0, 2 pi], got {angle}; a half circle is math.pi"
        )
    x, y = start.detach().to(torch.float64), toward.detach().to(torch.float64)
    size = x.norm()
    first = x / size
    # Twice is enough: one pass leaves a part of x of the order of rounding.
    across = y - (y @ first) * first
    across = across - (across @ first) * first
    rounding = 16.0 * max(torch.finfo(start.dtype).eps, torch.finfo(toward.dtype).eps)
    if not bool(across.norm() > rounding * y.norm()) or not bool(size > 0):
        raise DomainError(
            "an arc needs two directions, got vectors that are parallel, zero or not "
            "finite; pass another toward="
        )
    steps = math.ceil(angle / _LARGEST_STEP - 1e-12)
    turn = torch.linspace(0.0, angle, steps + 1, dtype=torch.float64)[:, None].to(x)
    vertices = turn.cos() * x + size * turn.sin() * (across / across.norm())
    vertices[0] = x
    result: Tensor = vertices
    return result


@final
class Curve:
    """A polyline, checked.

    Args:
        vertices: (V, *sample), floating-point, V >= 2.

    Raises:
        ArgumentTypeError: Not a floating-point tensor.
        ShapeError: Fewer than two vertices, or no axis beside theirs.
        DomainError: Not finite, or a vertex equals the one before it.
    """

    def __init__(self, vertices: Any) -> None:
        if not isinstance(vertices, Tensor):
            raise ArgumentTypeError(
                "a curve is a floating-point tensor of vertices, got "
                f"{type(vertices).__name__}; {_convert(vertices)}"
            )
        if not vertices.is_floating_point():
            raise ArgumentTypeError(
                "a curve is a floating-point tensor of vertices, got a tensor of "
                f"{vertices.dtype}; convert it with .double()"
            )
        if vertices.ndim < 2 or len(vertices) < 2:
            raise ShapeError(
                "a curve has vertices along its first axis, at least two, got shape "
                f"{tuple(vertices.shape)}; stack at least two inputs"
            )
        self.vertices = vertices.detach().to(torch.float64)
        if not bool(self.vertices.isfinite().all()):
            raise DomainError(
                "a curve must be finite, got vertices with infinities or NaN; leave "
                "them out"
            )
        flat = self.vertices.flatten(1)
        self._steps = flat.diff(dim=0).norm(dim=1)
        if bool((self._steps == 0).any()):
            raise DomainError(
                "neighbouring vertices must differ, number "
                f"{int((self._steps == 0).nonzero()[0]) + 1} repeats the one before; "
                "leave it out"
            )

    @property
    def length(self) -> float:
        """Sum of the Euclidean lengths of the segments."""
        return float(self._steps.sum())

    @property
    def angular_length(self) -> float:
        """Angle that the curve sweeps as seen from the origin, radians.

        A segment from or to the origin lies on a ray and sweeps none.
        """
        flat = self.vertices.flatten(1)
        sizes = flat.norm(dim=1, keepdim=True)
        unit = torch.where(sizes > 0, flat / sizes, 0.0)
        # 2 atan2(|u - v|, |u + v|) keeps its digits where arccos loses them.
        angles = 2.0 * torch.atan2(
            (unit[1:] - unit[:-1]).norm(dim=1), (unit[1:] + unit[:-1]).norm(dim=1)
        )
        seen = (sizes[1:] > 0) & (sizes[:-1] > 0)
        return float(angles[seen[:, 0]].sum())

    def at(
        self, segments: Shaped[Tensor, " P"], t: Float64[Tensor, " P"]
    ) -> Float64[Tensor, "P d *more"]:
        """Points of the curve.

        Args:
            segments: (P,) integers, 0 to S.
            t: (P,), 0 where the segment is S.

        Returns:
            (P, *sample).
        """
        after = (segments + 1).clamp(max=len(self.vertices) - 1)
        t = t.reshape(-1, *[1] * (self.vertices.ndim - 1))
        return self.vertices[segments] * (1.0 - t) + self.vertices[after] * t


def _convert(given: object) -> str:
    """The way from something else to a tensor."""
    if isinstance(given, np.ndarray):
        return "convert it with torch.from_numpy"
    return "stack the inputs to go through, torch.stack([x, y])"
