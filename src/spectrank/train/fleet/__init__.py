"""Fleets: many networks of one architecture trained as one batch."""

from spectrank.train.fleet.batches import batch_order as batch_order
from spectrank.train.fleet.optimizers import SGD as SGD
from spectrank.train.fleet.optimizers import Adam as Adam
from spectrank.train.fleet.result import FleetResult as FleetResult
from spectrank.train.fleet.run import FleetView as FleetView
from spectrank.train.fleet.stacking import stack as stack
from spectrank.train.fleet.stacking import unstack as unstack
from spectrank.train.fleet.train import train_fleet as train_fleet
