"""Everything that reads a model: module, state dict, file or folder to matrices."""

from spectrank.model.iterate import Source as Source
from spectrank.model.iterate import describe as describe
from spectrank.model.iterate import iter_matrices as iter_matrices
from spectrank.model.iterate import iter_weights as iter_weights
from spectrank.model.iterate import unmatched_patterns as unmatched_patterns
from spectrank.model.iterate import weight_names as weight_names
from spectrank.model.views import VIEWS as VIEWS
from spectrank.model.views import View as View
from spectrank.model.views import get_view as get_view
from spectrank.model.weights import Skip as Skip
from spectrank.model.weights import SourceInfo as SourceInfo
from spectrank.model.weights import WeightMatrix as WeightMatrix
