"""Named scalars of a spectrum: ranks, norms, tails."""

from spectrank.metrics.features import alpha_req as alpha_req
from spectrank.metrics.features import rankme as rankme
from spectrank.metrics.norms import condition_number as condition_number
from spectrank.metrics.norms import frobenius_norm as frobenius_norm
from spectrank.metrics.norms import nuclear_norm as nuclear_norm
from spectrank.metrics.norms import spectral_gap as spectral_gap
from spectrank.metrics.norms import spectral_norm as spectral_norm
from spectrank.metrics.random_matrix import mp_distance as mp_distance
from spectrank.metrics.random_matrix import mp_edge as mp_edge
from spectrank.metrics.random_matrix import mp_sigma as mp_sigma
from spectrank.metrics.random_matrix import mp_softrank as mp_softrank
from spectrank.metrics.random_matrix import num_spikes as num_spikes
from spectrank.metrics.random_matrix import tracy_widom_p as tracy_widom_p
from spectrank.metrics.ranks import effective_rank as effective_rank
from spectrank.metrics.ranks import energy_rank as energy_rank
from spectrank.metrics.ranks import nuclear_rank as nuclear_rank
from spectrank.metrics.ranks import numerical_rank as numerical_rank
from spectrank.metrics.ranks import participation_ratio as participation_ratio
from spectrank.metrics.ranks import (
    relative_distance_to_rank as relative_distance_to_rank,
)
from spectrank.metrics.ranks import stable_rank as stable_rank
from spectrank.metrics.registry import Metric as Metric
from spectrank.metrics.registry import get_metric as get_metric
from spectrank.metrics.registry import list_metrics as list_metrics
from spectrank.metrics.registry import register as register
from spectrank.metrics.sums import schatten_norm as schatten_norm
from spectrank.metrics.sums import spectral_entropy as spectral_entropy
from spectrank.metrics.tails import alpha as alpha
from spectrank.metrics.tails import alpha_weighted as alpha_weighted
from spectrank.metrics.tails import ks_distance as ks_distance
from spectrank.metrics.tails import log_alpha_norm as log_alpha_norm
from spectrank.metrics.tails import num_tail as num_tail
from spectrank.metrics.tails import power_law_ratio as power_law_ratio
from spectrank.metrics.tails import xmin as xmin
