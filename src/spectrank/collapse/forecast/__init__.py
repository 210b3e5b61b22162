"""What training will end in: stationary points, closed forms, centroid networks."""

from spectrank.collapse.forecast.centroids import Centroids as Centroids
from spectrank.collapse.forecast.centroids import centroids as centroids
from spectrank.collapse.forecast.deep_linear import DeepLinear as DeepLinear
from spectrank.collapse.forecast.deep_linear import deep_linear as deep_linear
from spectrank.collapse.forecast.forecast import CentroidMinimum as CentroidMinimum
from spectrank.collapse.forecast.forecast import centroid_minima as centroid_minima
from spectrank.collapse.forecast.forecast import forecast as forecast
from spectrank.collapse.forecast.forecast import rank_curve as rank_curve
from spectrank.collapse.forecast.linear_data import (
    interpolation_limit as interpolation_limit,
)
from spectrank.collapse.forecast.linear_data import linear_modes as linear_modes
from spectrank.collapse.forecast.linear_data import mse_weight_decay as mse_weight_decay
from spectrank.collapse.forecast.minimise import Minimum as Minimum
from spectrank.collapse.forecast.minimise import minimise as minimise
