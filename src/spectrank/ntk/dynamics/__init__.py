"""Training in the kernel regime: predicted curves and the linearised model."""

from spectrank.ntk.dynamics.convention import (
    largest_learning_rate as largest_learning_rate,
)
from spectrank.ntk.dynamics.flow import gradient_flow as gradient_flow
from spectrank.ntk.dynamics.linearized import Linearized as Linearized
from spectrank.ntk.dynamics.linearized import linearize as linearize
from spectrank.ntk.dynamics.result import KernelFlow as KernelFlow
