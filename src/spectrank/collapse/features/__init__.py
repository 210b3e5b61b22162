"""How far features have collapsed: NC1-NC4, cluster variation, angles, alignments.

A function of (features, labels) has a twin that takes class statistics, ``nc1`` and
``nc1_of``; both return a `Value`. Covariances divide by N.
"""

from spectrank.collapse.features.alignments import ALIGNMENTS as ALIGNMENTS
from spectrank.collapse.features.alignments import (
    canonical_alignments as canonical_alignments,
)
from spectrank.collapse.features.between import resolution as resolution
from spectrank.collapse.features.centres import effective_depth as effective_depth
from spectrank.collapse.features.centres import nc4 as nc4
from spectrank.collapse.features.centres import nc4_of as nc4_of
from spectrank.collapse.features.centres import nearest_centre as nearest_centre
from spectrank.collapse.features.clusters import pca_bracket as pca_bracket
from spectrank.collapse.features.clusters import pca_bracket_of as pca_bracket_of
from spectrank.collapse.features.clusters import tcv as tcv
from spectrank.collapse.features.geometry import NC2_VARIANTS as NC2_VARIANTS
from spectrank.collapse.features.geometry import NC3_VARIANTS as NC3_VARIANTS
from spectrank.collapse.features.geometry import etf_error as etf_error
from spectrank.collapse.features.geometry import nc2 as nc2
from spectrank.collapse.features.geometry import nc2_classifier as nc2_classifier
from spectrank.collapse.features.geometry import nc2_of as nc2_of
from spectrank.collapse.features.geometry import nc3 as nc3
from spectrank.collapse.features.geometry import nc3_of as nc3_of
from spectrank.collapse.features.layers import LayerLaw as LayerLaw
from spectrank.collapse.features.layers import layer_law as layer_law
from spectrank.collapse.features.regression import NRC_VARIANTS as NRC_VARIANTS
from spectrank.collapse.features.regression import covariance_rank as covariance_rank
from spectrank.collapse.features.regression import nrc as nrc
from spectrank.collapse.features.regression import nrc1_of as nrc1_of
from spectrank.collapse.features.regression import nrc2_of as nrc2_of
from spectrank.collapse.features.regression import nrc3_of as nrc3_of
from spectrank.collapse.features.regression import target_rank as target_rank
from spectrank.collapse.features.rows import alignment_rows as alignment_rows
from spectrank.collapse.features.rows import feature_rows as feature_rows
from spectrank.collapse.features.rows import kept_rows as kept_rows
from spectrank.collapse.features.rows import regression_rows as regression_rows
from spectrank.collapse.features.subspaces import subspace_angles as subspace_angles
from spectrank.collapse.features.variability import NC1_VARIANTS as NC1_VARIANTS
from spectrank.collapse.features.variability import cdnv as cdnv
from spectrank.collapse.features.variability import cdnv_of as cdnv_of
from spectrank.collapse.features.variability import nc1 as nc1
from spectrank.collapse.features.variability import nc1_of as nc1_of
