"""Initialisers with a prescribed stable rank, and how close a layer is to its own."""

from spectrank.init.apply import apply_ as apply_
from spectrank.init.closeness import closeness as closeness
from spectrank.init.control import SpectralUpdateMonitor as SpectralUpdateMonitor
from spectrank.init.control import StableRankPenalty as StableRankPenalty
from spectrank.init.control import polar_reset_ as polar_reset_
from spectrank.init.control import (
    spectral_update_condition as spectral_update_condition,
)
from spectrank.init.control import spectral_updates as spectral_updates
from spectrank.init.control import stable_rank_norm as stable_rank_norm
from spectrank.init.control import stable_rank_penalty as stable_rank_penalty
from spectrank.init.fill import adjust_ as adjust_
from spectrank.init.fill import stable_rank_ as stable_rank_
