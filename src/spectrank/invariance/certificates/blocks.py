r"""Blocks of a relu layer right below a linear tail: units that act as linear ones.

For units A of one activation pattern on all samples the block (D)_AA of the gap is
conserved while the pattern lasts, so with B the matrix that reads them

    T_r(W[A]) <= T_r(B[:, A]) - sum_{i > r} lambda_i(D_AA),   T_r(B[:, A]) <= T_r(B).

The full matrix has no such bound.
Source (derived): tests/invariance/certificates/test_certify.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError
from spectrank.invariance.certificates.chain import Chain
from spectrank.invariance.certificates.checks import DERIVED, Check, Row, check_row
from spectrank.invariance.certificates.levels import Level
from spectrank.invariance.certificates.measured import ROUNDING
from spectrank.invariance.certificates.recursion import functional
from spectrank.invariance.certificates.tail import Tail

Tensors = Mapping[str, Tensor]
Blocks = Mapping[str, Sequence[Sequence[int]]]


def block_rows(
    chain: Chain | None,
    tail: Tail,
    tensors: tuple[Tensors, Tensors],
    blocks: Blocks,
    blocked: str | None,
) -> list[Row]:
    """Checks of blocks of units with one activation pattern each.

    Args:
        chain: The tail with its bounds; None where there is none.
        tail: The tail, which knows the layer below it.
        tensors: Weights at the start and now.
        blocks: Name of that layer to sets of its units.
        blocked: Why bounds of the start do not apply; None where they do.

    Returns:
        A row ``block_tail`` and the singular values of each set; none without blocks.

    Raises:
        UnknownNameError: A layer is named that is not right below the tail.
        DomainError: A unit does not exist, or stands twice in a set.
    """
    if not blocks:
        return []
    name = None if tail.below is None else tail.below.name
    readable = chain is not None and chain.bounds[0].tails and _dense(chain.now[0])
    if set(blocks) != {name} or chain is None or tail.below is None or not readable:
        raise UnknownNameError(
            "blocks are certified of the relu layer right below a tail of matrices, "
            f"got {', '.join(map(repr, blocks))}; here that is {name!r}"
        )
    under = tail.below.level(tensors[0]), tail.below.level(tensors[1])
    units = len(under[0].entering)
    rows = []
    for number, units_of in enumerate(blocks[tail.below.name]):
        index = list(units_of)
        if (
            not index
            or len(set(index)) < len(index)
            or not (min(index) >= 0 and max(index) < units)
        ):
            raise DomainError(
                f"a block is one or more distinct units of [0, {units}), got "
                f"{index[:8]}; number the outputs of {name!r} from 0"
            )
        found = _rows(chain, under, index, tail.below.name, blocked)
        rows += [{**row, "variant": f"block {number}"} for row in found]
    return rows


def _rows(
    chain: Chain,
    under: tuple[Level, Level],
    index: list[int],
    name: str,
    blocked: str | None,
) -> list[Row]:
    bound, unit = chain.bounds[0], chain.unit
    add = functional(bound.kappa, tails=True)
    before = _gap(under[0], chain.start[0], index, unit)
    after = _gap(under[1], chain.now[0], index, unit)
    start = bound.start + add(torch.linalg.eigvalsh(before))
    drift = 0.0
    if chain.drift:
        drift = bound.drift + add(torch.linalg.eigvalsh(after - before))
    weight = under[1].entering[index] / unit
    squares = torch.linalg.svdvals(weight).square()
    rest = max(1.0 - bound.kappa / len(squares), 0.0)
    size = max(chain.size, float(under[1].augmented.square().sum()) / unit**2)
    check = Check(
        "block_tail",
        float(squares[bound.kappa :].sum()) * unit**2,
        (start + drift) * unit**2,
        float(squares.sum()) * rest * unit**2,
        ROUNDING * size * unit**2,
        index=bound.kappa,
    )
    words = f"{len(index)} units; needs one activation pattern on the training data"
    row = check_row(name, check, words, blocked=blocked)
    return [
        {**row, "bound_at_start": start * unit**2, "drift": drift * unit**2},
        {
            "kind": "spectrum",
            "subject": name,
            "metric": "singular_values",
            "values": (squares.sqrt() * unit).tolist(),
            "error_kind": "rounding",
            "status": "ok",
            "source": DERIVED,
        },
    ]


def _gap(under: Level, above: Level, index: list[int], unit: float) -> Tensor:
    entering = under.augmented[index] / unit
    leaving = above.leaving[:, index]
    return leaving.mT @ leaving - entering @ entering.mT


def _dense(level: Level) -> bool:
    return level.inner is None and level.factor == 1
