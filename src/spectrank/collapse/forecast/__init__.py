"""What training will end in: stationary points, closed forms, centroid networks."""

from spectrank.collapse.forecast.minimise import Minimum as Minimum
from spectrank.collapse.forecast.minimise import minimise as minimise
