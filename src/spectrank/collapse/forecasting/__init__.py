"""What training will end in: stationary points, closed forms, centroid networks."""

from spectrank.collapse.forecasting.centroids import Centroids as Centroids
from spectrank.collapse.forecasting.centroids import centroids as centroids
from spectrank.collapse.forecasting.deep_linear import DeepLinear as DeepLinear
from spectrank.collapse.forecasting.deep_linear import deep_linear as deep_linear
from spectrank.collapse.forecasting.forecast import CentroidMinimum as CentroidMinimum
from spectrank.collapse.forecasting.forecast import centroid_minima as centroid_minima
from spectrank.collapse.forecasting.forecast import forecast as forecast
from spectrank.collapse.forecasting.forecast import rank_curve as rank_curve
from spectrank.collapse.forecasting.linear_data import (
    interpolation_limit as interpolation_limit,
)
from spectrank.collapse.forecasting.linear_data import linear_modes as linear_modes
from spectrank.collapse.forecasting.linear_data import (
    mse_weight_decay as mse_weight_decay,
)
from spectrank.collapse.forecasting.minimise import Minimum as Minimum
from spectrank.collapse.forecasting.minimise import minimise as minimise
