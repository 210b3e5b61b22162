"""Linear laws: weighted sums of parameters that no gradient changes."""

from spectrank.invariance.linear.find import linear_laws as linear_laws
