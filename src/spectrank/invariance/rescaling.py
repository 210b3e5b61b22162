"""Rescaling along the symmetry of a law: which entries, by which power of a factor.

Sums of squares are kept as logarithms, so that weights of 1e-200 or 1e200 balance as
well as any others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spectrank.invariance.pieces import Piece

Tensors = Mapping[str, Tensor]
# Halvings of an interval of 2^10: to the last bit.
_HALVINGS = 70


def disjoint(own: Sequence[Piece], tensors: Tensors) -> bool:
    """Whether no entry takes part twice, so that all laws may be balanced at once.

    Args:
        own: Pieces of a family.
        tensors: Name of each parameter to its values.

    Returns:
        False where, say, a recurrent weight enters one unit and leaves another.
    """
    counts: dict[str, Tensor] = {}
    for piece in own:
        tensor = tensors[piece.parameter]
        touched = piece.spread(torch.ones(len(piece.indices)).double(), tensor)
        counts[piece.parameter] = counts.get(piece.parameter, 0.0) + touched
    return all(float(count.max()) <= 1.0 for count in counts.values())


def imbalance(own: Sequence[Piece], tensors: Tensors, num_laws: int) -> Tensor:
    """Relative imbalance h / (sum of |c| w^2), in [-1, 1]; NaN where one side vanishes.

    Args:
        own: Pieces of a family.
        tensors: Name of each parameter to its values.
        num_laws: Number of laws.

    Returns:
        (num_laws,); 0 where both sides vanish.
    """
    sums = log_sums(own, tensors, num_laws)
    plus, minus = _sides(sums, torch.zeros(num_laws, dtype=torch.float64))
    found = torch.tanh((plus - minus) / 2.0)
    one_sided = plus.isinf() ^ minus.isinf()
    found = torch.where(one_sided, torch.nan, found)
    return torch.where(plus.isinf() & minus.isinf(), 0.0, found)


def log_sums(
    own: Sequence[Piece], tensors: Tensors, num_laws: int
) -> dict[float, Tensor]:
    """Log of the sum of squares at each coefficient, law by law.

    Args:
        own: Pieces of a family.
        tensors: Name of each parameter to its values.
        num_laws: Number of laws.

    Returns:
        Coefficient to (num_laws,); -inf where there is nothing.
    """
    found: dict[float, Tensor] = {}
    for piece in own:
        matrix = piece.matrix(tensors[piece.parameter].detach()).double().cpu()
        if piece.columns is not None:
            matrix = matrix[:, piece.columns]
        logs = log_squares(matrix)[piece.indices]
        for c in sorted(set(piece.coefficients.tolist())):
            if c == 0.0:
                continue
            chosen = piece.coefficients == c
            new = _scattered(logs[chosen], piece.laws[chosen], num_laws)
            old = found.get(c)
            found[c] = new if old is None else torch.logaddexp(old, new)
    return found


def log_squares(matrix: Tensor) -> Tensor:
    """Log of the sum of squares of each row, without over- or underflow.

    Args:
        matrix: (k, p).

    Returns:
        (k,); -inf of a zero row.
    """
    top = matrix.abs().amax(1)
    safe = torch.where(top > 0.0, top, 1.0)
    return 2.0 * top.log() + (matrix / safe[:, None]).square().sum(1).clamp(1.0).log()


def _scattered(logs: Tensor, laws: Tensor, num_laws: int) -> Tensor:
    found = torch.full((num_laws,), -torch.inf, dtype=torch.float64)
    top = found.scatter_reduce(0, laws, logs, "amax")
    safe = torch.where(top.isinf(), 0.0, top)
    sums = torch.zeros(num_laws, dtype=torch.float64)
    sums.index_add_(0, laws, (logs - safe[laws]).exp())
    return safe + sums.log()


def balancing(sums: Mapping[float, Tensor], num_laws: int) -> Tensor:
    r"""Root t of :math:`\sum_c c\,S_c e^{2ct} = 0` per law; 0 where a side vanishes.

    Args:
        sums: What `log_sums` returned.
        num_laws: Number of laws.

    Returns:
        (num_laws,).
    """
    zero = torch.zeros(num_laws, dtype=torch.float64)
    plus, minus = _sides(sums, zero)
    usable = ~(plus.isinf() | minus.isinf())
    low, high = zero - 1024.0, zero + 1024.0
    if len(sums) == 2:
        a, b = max(sums), -min(sums)
        t = (minus - plus) / (2.0 * (a + b))
        return torch.where(usable, t, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        plus, minus = _sides(sums, middle)
        above = plus > minus
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return torch.where(usable, (low + high) / 2.0, 0.0)


def _sides(sums: Mapping[float, Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of the positive and of the negative part of the law at t."""
    plus = minus = torch.full_like(t, -torch.inf)
    for c, logs in sums.items():
        part = logs + 2.0 * c * t + math.log(abs(c))
        if c > 0:
            plus = torch.logaddexp(plus, part)
        else:
            minus = torch.logaddexp(minus, part)
    return plus, minus


def rescale_(
    own: Sequence[Piece], tensors: Tensors, num_laws: int, logs: dict[str, Tensor]
) -> None:
    """Move a family to where its laws are zero, in place.

    Args:
        own: Pieces of a family.
        tensors: Name of each parameter to itself.
        num_laws: Number of laws.
        logs: Name of a parameter to the logarithms of all its factors so far, entry by
            entry; added to.
    """
    if disjoint(own, tensors):
        t = balancing(log_sums(own, tensors, num_laws), num_laws)
        apply_(own, tensors, t, logs)
        return
    for number in range(num_laws):
        t = balancing(_single(own, tensors, number), 1)
        alone = torch.zeros(num_laws, dtype=torch.float64)
        alone[number] = t[0]
        apply_(own, tensors, alone, logs)


def apply_(
    own: Sequence[Piece], tensors: Tensors, t: Tensor, logs: dict[str, Tensor]
) -> None:
    """Multiply every entry by exp(c t), c and t those of its laws, in place.

    Args:
        own: Pieces of a family.
        tensors: Name of each parameter to itself.
        t: (num_laws,).
        logs: As for `rescale_`.
    """
    for piece in own:
        tensor = tensors[piece.parameter]
        exponent = piece.spread(piece.coefficients * t[piece.laws], tensor)
        tensor.copy_((tensor.double() * exponent.exp()).to(tensor.dtype))
        logs[piece.parameter] = logs.get(piece.parameter, 0.0) + exponent


def _single(own: Sequence[Piece], tensors: Tensors, number: int) -> dict[float, Tensor]:
    """Log sums of one law, with the coefficients of an entry added up."""
    total: dict[str, Tensor] = {}
    for piece in own:
        factors = torch.where(piece.laws == number, piece.coefficients, 0.0)
        spread = piece.spread(factors, tensors[piece.parameter])
        total[piece.parameter] = total.get(piece.parameter, 0.0) + spread
    found: dict[float, Tensor] = {}
    for name, coefficients in total.items():
        for c in torch.unique(coefficients).tolist():
            if c == 0.0:
                continue
            entries = tensors[name].detach().double()[coefficients == c].cpu()
            logs = log_squares(entries[None])
            old = found.get(c)
            found[c] = logs if old is None else torch.logaddexp(old, logs)
    return found
