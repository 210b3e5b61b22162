"""Signal, gradients, angles and expressivity of deep networks: theory and measurement.

``predict`` is theory of random networks with prescribed spectra (`RandomMLP`), exact at
finite width for piecewise-linear activations; names, formulas, units and sources of all
rows are in ``propagation.names``.
"""

from spectrank.propagation.measurement import measure as measure
from spectrank.propagation.names import METRICS as METRICS
from spectrank.propagation.pieces import arc as arc
from spectrank.propagation.pieces import count_pieces as count_pieces
from spectrank.propagation.theory.capacity import capacity as capacity
from spectrank.propagation.theory.mean_field import critical_sigma as critical_sigma
from spectrank.propagation.theory.predict import predict as predict
