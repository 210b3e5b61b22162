"""Stable rank normalisation: the two factors that bring a matrix to a stable rank.

W = S1 + S2 with S1 = s_1 u v^T and S2 the rest becomes top * S1 + rest * S2. Both
factors are functions of s_1, ||S2||_F and the target alone, and differentiable in the
first two; who needs the triplet finds it.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from spectrank.errors import DomainError, UnknownNameError

SrnVariant = Literal["keep", "optimal"]


def srn_factors(
    sigma_max: Tensor,
    tail_norm: Tensor,
    stable_rank: float,
    *,
    variant: SrnVariant = "keep",
    lower_only: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Factors (top, rest) such that top S1 + rest S2 has the stable rank r.

    With :math:`\gamma = \sqrt{r-1}\, s_1 / \|S_2\|_F`: ``keep`` gives (1, gamma);
    ``optimal``, the nearest matrix in Frobenius norm of stable rank r, gives
    :math:`(g, \gamma g)` with :math:`g = (1 + \sqrt{r-1}\,\|S_2\|_F/s_1)/r`, at
    distance :math:`\|S_2\|_F(1-\gamma)/\sqrt r`, that is :math:`1/\sqrt r` of the
    distance of ``keep``. Both are (1, 0) at r = 1.

    Dimensionless. A matrix at or below the target (gamma >= 1) is left alone, (1, 1),
    unless ``lower_only`` is False: then the formula holds while gamma s_2 <= s_1, and
    the caller sees to that. A matrix of rank one or zero (S2 = 0 or s_1 = 0) has no
    stable rank to lower: (1, 1). Gradients are those of the branch taken, never NaN.

    Source (stated): the variant ``keep`` and the split, Sanyal et al. (2020),
    arXiv:1906.04659, and its public code. Source (derived): ``optimal`` as the least
    squares optimum, test_srn.py::test_optimal_equals_a_search_over_full_matrices.

    Args:
        sigma_max: Largest singular value s_1, any shape ().. (elementwise).
        tail_norm: Frobenius norm of S2, the same shape.
        stable_rank: Target r >= 1.
        variant: ``keep`` leaves s_1 as it is; ``optimal`` is nearest to W.
        lower_only: Leave a matrix alone that is below the target already.

    Returns:
        The factors of S1 and of S2, each of the shape of ``sigma_max``.

    Raises:
        DomainError: ``stable_rank`` is below 1 or not finite.
        UnknownNameError: No such variant.
    """
    if not (math.isfinite(stable_rank) and stable_rank >= 1):
        raise DomainError(
            f"stable_rank must be a finite number of at least 1, got {stable_rank}; "
            "every matrix but zero has a stable rank of 1 or more"
        )
    if variant not in get_args(SrnVariant):
        raise UnknownNameError(
            f"variant must be one of {', '.join(get_args(SrnVariant))}, "
            f"got {variant!r}; 'keep' leaves the spectral norm as it is"
        )
    root = math.sqrt(stable_rank - 1)
    one = torch.ones_like(sigma_max)
    changes = (sigma_max > 0) & (tail_norm > 0)
    if lower_only:
        changes = changes & (root * sigma_max < tail_norm)
    # Divide by one where the answer is (1, 1): where() alone would let the gradient of
    # the branch not taken through as 0 * inf = NaN.
    top_norm = torch.where(changes, sigma_max, one)
    rest_norm = torch.where(changes, tail_norm, one)
    gamma = root * (top_norm / rest_norm)
    if variant == "keep":
        return one, torch.where(changes, gamma, one)
    # g from ||S2||/s_1 and not as g2/gamma, which is 0/0 at r = 1; and gamma g with
    # gamma * ||S2||/s_1 = sqrt(r-1) multiplied out, for the same reason.
    top = (1 + root * (rest_norm / top_norm)) / stable_rank
    rest = (gamma + root * root) / stable_rank
    return torch.where(changes, top, one), torch.where(changes, rest, one)
