"""What a stationary point promises about the rank of its weights, and how firmly."""

from spectrank.collapse.certificates.applicability import (
    applicability as applicability,
)
from spectrank.collapse.certificates.bounds import RankBounds as RankBounds
from spectrank.collapse.certificates.bounds import (
    sufficient_weight_decay as sufficient_weight_decay,
)
from spectrank.collapse.certificates.caveats import Applicability as Applicability
from spectrank.collapse.certificates.caveats import Caveat as Caveat
from spectrank.collapse.certificates.norm_caps import equal_norms_row as equal_norms_row
from spectrank.collapse.certificates.norm_caps import norm_cap_rows as norm_cap_rows
from spectrank.collapse.certificates.norm_caps import product_row as product_row
from spectrank.collapse.certificates.partition_rows import (
    partition_rows as partition_rows,
)
from spectrank.collapse.certificates.partitions import Partition as Partition
from spectrank.collapse.certificates.partitions import best_partition as best_partition
from spectrank.collapse.certificates.partitions import (
    partition_profile as partition_profile,
)
from spectrank.collapse.certificates.rows import COLUMNS as COLUMNS
from spectrank.collapse.certificates.rows import certificate_rows as certificate_rows
from spectrank.collapse.certificates.softmax import softmax_bound as softmax_bound
from spectrank.collapse.certificates.tails import NORMS as NORMS
from spectrank.collapse.certificates.tails import Norm as Norm
from spectrank.collapse.certificates.tails import dist_to_rank as dist_to_rank
from spectrank.collapse.certificates.theorem import rank_bounds as rank_bounds
from spectrank.collapse.certificates.window import WindowBound as WindowBound
from spectrank.collapse.certificates.window import window_bound as window_bound
from spectrank.collapse.certificates.window import window_factors as window_factors
from spectrank.collapse.certificates.window_rows import window_rank as window_rank
