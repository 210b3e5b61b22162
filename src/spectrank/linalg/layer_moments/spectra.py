"""Squared singular values of a layer's law: fixed, or drawn with a seed of its own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from spectrank.linalg.ensembles.assembly import FixedLaw
from spectrank.linalg.ensembles.layer import LayerLaw
from spectrank.linalg.ensembles.make import ensemble
from spectrank.linalg.ensembles.profiles import tempered
from spectrank.linalg.ensembles.slices import draw_slice
from spectrank.linalg.ensembles.temper import drawn_log_values
from spectrank.linalg.haar import make_draws

# Wide layers self-average: as many values in all, but never too few draws.
_NUM_VALUES = 1 << 13
_NUM_DRAWS = (24, 256)
_SEED = 20211005


def fixed_squares(law: LayerLaw) -> np.ndarray | None:
    """Squared singular values of a law, normalised to a largest of one.

    Args:
        law: Of one layer.

    Returns:
        (min(m, n),) descending; None where they are random, or a profile that the law
        does not carry.
    """
    if law.stable_rank is None or law.spectrum == "profile":
        return None
    made = ensemble(
        law.m, law.n, stable_rank=law.stable_rank, spectrum=law.spectrum
    ).law
    if isinstance(made, FixedLaw):
        return np.array(made.squares)
    return None


def drawn_squares(law: LayerLaw) -> np.ndarray | None:
    """Independent draws of the squared singular values of ``slice`` and ``temper``.

    The seed is fixed, so a law has one prediction; 24 to 256 draws, of ``temper`` those
    that its a2 has: 8 of the largest.

    Args:
        law: Of one layer.

    Returns:
        (num, min(m, n)) of largest one, descending; None for any other spectrum.
    """
    if law.spectrum not in {"slice", "temper"} or law.stable_rank is None:
        return None
    return _drawn(law.spectrum, max(law.m, law.n), min(law.m, law.n), law.stable_rank)


# A memo: W and W^T, and every layer of the same law, have the same draws.
@lru_cache(maxsize=8)
def _drawn(spectrum: str, m: int, p: int, r: float) -> np.ndarray:
    fewest, most = _NUM_DRAWS
    num = min(max(_NUM_VALUES // p, fewest), most)
    if spectrum == "temper":
        drawn = tempered(drawn_log_values(m, p)[:num], r)
    else:
        generator = torch.Generator().manual_seed(_SEED)
        draws = make_draws(generator, num=num, dtype=torch.float64, device=None)
        drawn = draw_slice(p, r, draws)
    squares: np.ndarray = drawn.numpy()
    squares.flags.writeable = False
    return squares
