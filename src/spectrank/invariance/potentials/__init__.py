"""Potentials: the linear system whose solutions are the diagonal quadratic laws."""

from spectrank.invariance.potentials.directions import Directed as Directed
from spectrank.invariance.potentials.directions import (
    directed_weights as directed_weights,
)
from spectrank.invariance.potentials.edges import Edge as Edge
from spectrank.invariance.potentials.edges import Part as Part
from spectrank.invariance.potentials.families import Family as Family
from spectrank.invariance.potentials.families import cuts as cuts
from spectrank.invariance.potentials.families import families as families
from spectrank.invariance.potentials.fitting import fitting_input as fitting_input
from spectrank.invariance.potentials.means import mean_laws as mean_laws
from spectrank.invariance.potentials.places import places_without as places_without
from spectrank.invariance.potentials.potential import Potential as Potential
from spectrank.invariance.potentials.solution import Potentials as Potentials
from spectrank.invariance.potentials.solving import solve as solve
from spectrank.invariance.potentials.stored import Stored as Stored
from spectrank.invariance.potentials.stored import stored_means as stored_means
