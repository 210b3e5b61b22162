"""Linear laws: weighted sums of parameters that no gradient changes."""

from spectrank.invariance.linear.find import linear_laws as linear_laws
from spectrank.invariance.linear.losses import LossLike as LossLike
from spectrank.invariance.linear.losses import sees_differences as sees_differences
