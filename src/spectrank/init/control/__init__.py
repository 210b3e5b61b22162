"""Control of the stable rank while a model trains, and when spectral updates help."""

from spectrank.init.control.normalise import StableRankNorm as StableRankNorm
from spectrank.init.control.normalise import stable_rank_norm as stable_rank_norm
from spectrank.init.control.penalty import StableRankPenalty as StableRankPenalty
from spectrank.init.control.penalty import stable_rank_penalty as stable_rank_penalty
