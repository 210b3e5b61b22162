"""Neural collapse and the rank of trained layers: measured, bounded, forecast."""

from spectrank.collapse.certificates import Applicability as Applicability
from spectrank.collapse.certificates import Caveat as Caveat
from spectrank.collapse.certificates import Partition as Partition
from spectrank.collapse.certificates import RankBounds as RankBounds
from spectrank.collapse.certificates import applicability as applicability
from spectrank.collapse.certificates import best_partition as best_partition
from spectrank.collapse.certificates import certificate_rows as certificate_rows
from spectrank.collapse.certificates import dist_to_rank as dist_to_rank
from spectrank.collapse.certificates import equal_norms_row as equal_norms_row
from spectrank.collapse.certificates import norm_cap_rows as norm_cap_rows
from spectrank.collapse.certificates import partition_profile as partition_profile
from spectrank.collapse.certificates import partition_rows as partition_rows
from spectrank.collapse.certificates import product_row as product_row
from spectrank.collapse.certificates import rank_bounds as rank_bounds
from spectrank.collapse.certificates import softmax_bound as softmax_bound
from spectrank.collapse.certificates import (
    sufficient_weight_decay as sufficient_weight_decay,
)
from spectrank.collapse.certificates import window_bound as window_bound
from spectrank.collapse.certificates import window_factors as window_factors
from spectrank.collapse.certificates import window_rank as window_rank
from spectrank.collapse.features import LayerLaw as LayerLaw
from spectrank.collapse.features import canonical_alignments as canonical_alignments
from spectrank.collapse.features import cdnv as cdnv
from spectrank.collapse.features import effective_depth as effective_depth
from spectrank.collapse.features import etf_error as etf_error
from spectrank.collapse.features import layer_law as layer_law
from spectrank.collapse.features import nc1 as nc1
from spectrank.collapse.features import nc2 as nc2
from spectrank.collapse.features import nc2_classifier as nc2_classifier
from spectrank.collapse.features import nc3 as nc3
from spectrank.collapse.features import nc4 as nc4
from spectrank.collapse.features import nrc as nrc
from spectrank.collapse.features import pca_bracket as pca_bracket
from spectrank.collapse.features import subspace_angles as subspace_angles
from spectrank.collapse.features import tcv as tcv
from spectrank.collapse.forecasting import DeepLinear as DeepLinear
from spectrank.collapse.forecasting import Minimum as Minimum
from spectrank.collapse.forecasting import deep_linear as deep_linear
from spectrank.collapse.forecasting import forecast as forecast
from spectrank.collapse.forecasting import interpolation_limit as interpolation_limit
from spectrank.collapse.forecasting import minimise as minimise
from spectrank.collapse.forecasting import rank_curve as rank_curve
from spectrank.collapse.measure import measure as measure
from spectrank.collapse.statistics import LayerStatistics as LayerStatistics
from spectrank.collapse.statistics import Statistics as Statistics
from spectrank.collapse.statistics import gather as gather
