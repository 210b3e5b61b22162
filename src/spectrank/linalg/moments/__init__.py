"""Moments of rows that pass by in batches: one pass, mergeable, safe when collapsed."""

from spectrank.linalg.moments._summaries import ClassSummary as ClassSummary
from spectrank.linalg.moments.classes import ClassMoments as ClassMoments
from spectrank.linalg.moments.cross import CrossMoments as CrossMoments
from spectrank.linalg.moments.cross import CrossSummary as CrossSummary
from spectrank.linalg.moments.distributed import all_reduce as all_reduce
from spectrank.linalg.moments.plain import Moments as Moments
from spectrank.linalg.moments.plain import MomentSummary as MomentSummary
