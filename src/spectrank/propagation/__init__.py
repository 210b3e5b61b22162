"""Signal, gradients, angles and expressivity of deep networks: theory and measurement.

``predict`` is theory of random networks with prescribed spectra (`RandomMLP`), exact at
finite width for piecewise-linear activations; names, formulas, units and sources of all
rows are in ``propagation.names``.
"""

from spectrank.propagation.names import METRICS as METRICS
