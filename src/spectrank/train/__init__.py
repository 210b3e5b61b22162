"""Training: fleets of small networks, and observers of any run."""

from spectrank.train.fleet import SGD as SGD
from spectrank.train.fleet import Adam as Adam
from spectrank.train.fleet import FleetResult as FleetResult
from spectrank.train.fleet import FleetView as FleetView
from spectrank.train.fleet import batch_order as batch_order
from spectrank.train.fleet import stack as stack
from spectrank.train.fleet import train_fleet as train_fleet
from spectrank.train.fleet import unstack as unstack
from spectrank.train.observers import Observer as Observer
from spectrank.train.observers import Step as Step
from spectrank.train.sinks import MemorySink as MemorySink
from spectrank.train.sinks import ParquetSink as ParquetSink
from spectrank.train.sinks import Sink as Sink
from spectrank.train.tracker import Tracker as Tracker
