"""Neural collapse and the rank of trained layers: measured, bounded, forecast."""

from spectrank.collapse.measure import measure as measure
from spectrank.collapse.statistics import LayerStatistics as LayerStatistics
from spectrank.collapse.statistics import Statistics as Statistics
from spectrank.collapse.statistics import gather as gather
