"""Control of the stable rank while a model trains, and when spectral updates help."""

from spectrank.init.control.condition import Condition as Condition
from spectrank.init.control.condition import (
    spectral_update_condition as spectral_update_condition,
)
from spectrank.init.control.monitor import (
    SpectralUpdateMonitor as SpectralUpdateMonitor,
)
from spectrank.init.control.normalise import stable_rank_norm as stable_rank_norm
from spectrank.init.control.parametrisation import StableRankNorm as StableRankNorm
from spectrank.init.control.penalty import StableRankPenalty as StableRankPenalty
from spectrank.init.control.penalty import stable_rank_penalty as stable_rank_penalty
from spectrank.init.control.polar import polar_reset_ as polar_reset_
from spectrank.init.control.updates import spectral_updates as spectral_updates
