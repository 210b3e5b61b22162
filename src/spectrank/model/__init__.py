"""Everything that reads a model: its matrices, its wiring, what runs through it."""

from spectrank.model.capture import Batch as Batch
from spectrank.model.capture import Capture as Capture
from spectrank.model.capture import LayerBatch as LayerBatch
from spectrank.model.capture import capture as capture
from spectrank.model.graph import Graph as Graph
from spectrank.model.graph import Link as Link
from spectrank.model.graph import Node as Node
from spectrank.model.graph import graph as graph
from spectrank.model.iterate import Source as Source
from spectrank.model.iterate import Views as Views
from spectrank.model.iterate import describe as describe
from spectrank.model.iterate import iter_matrices as iter_matrices
from spectrank.model.iterate import iter_weights as iter_weights
from spectrank.model.iterate import unmatched_patterns as unmatched_patterns
from spectrank.model.iterate import weight_names as weight_names
from spectrank.model.layouts import LAYOUTS as LAYOUTS
from spectrank.model.losses import describe_loss as describe_loss
from spectrank.model.optimizer import read_optimizer as read_optimizer
from spectrank.model.splits import Layout as Layout
from spectrank.model.views import VIEWS as VIEWS
from spectrank.model.views import View as View
from spectrank.model.views import get_view as get_view
from spectrank.model.weights import Skip as Skip
from spectrank.model.weights import SourceInfo as SourceInfo
from spectrank.model.weights import WeightMatrix as WeightMatrix
