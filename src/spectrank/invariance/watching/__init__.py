"""Watching laws while a model trains: values, exact predictions, verdicts."""

from spectrank.invariance.watching.cost import Cost as Cost
from spectrank.invariance.watching.cost import watching_cost as watching_cost
from spectrank.invariance.watching.direction import direction_change as direction_change
from spectrank.invariance.watching.watch import Watch as Watch
