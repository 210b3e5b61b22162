"""Class statistics of every layer in one pass: sums, kept rows, decays."""

from spectrank.collapse.statistics.cells import coarsen as coarsen
from spectrank.collapse.statistics.cells import coarsen_classes as coarsen_classes
from spectrank.collapse.statistics.cells import join as join
from spectrank.collapse.statistics.decay import Decay as Decay
from spectrank.collapse.statistics.decay import EffectiveDecay as EffectiveDecay
from spectrank.collapse.statistics.decay import decay_of as decay_of
from spectrank.collapse.statistics.decay import effective_decays as effective_decays
from spectrank.collapse.statistics.gather import gather as gather
from spectrank.collapse.statistics.keep import KeptRows as KeptRows
from spectrank.collapse.statistics.layer import LayerStatistics as LayerStatistics
from spectrank.collapse.statistics.layer import Minibatch as Minibatch
from spectrank.collapse.statistics.outputs import OutputStatistics as OutputStatistics
from spectrank.collapse.statistics.state import Statistics as Statistics
