"""Signal, gradients, Jacobians and angles of a network, measured layer by layer."""

from spectrank.propagation.measurement.measure import measure as measure
