"""Shape types for tensors: jaxtyping where it is installed, plain ``Tensor`` else.

The library does not depend on jaxtyping: a shape string is documentation for a
reader and a check in development.

    m  outputs, rows of a weight matrix
    n  inputs, columns of a weight matrix
    k  min(m, n), the number of singular values; the order of the Gram matrix
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float64 as Float64
    from jaxtyping import Shaped as Shaped
else:
    try:
        from jaxtyping import Float64, Shaped
    except ImportError:

        class _Plain:
            """Stand-in: ``Float64[Tensor, "m n"]`` is ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Float64 = Shaped = _Plain

Matrix = Shaped[Tensor, "m n"]
Spectral = Float64[Tensor, " k"]
Square = Float64[Tensor, "k k"]
