"""The neural tangent kernel: empirical, infinite-width, its moments and its dynamics.

Convention: standard parametrisation; ``K[a, b, i, j]`` is the sum of
``df_i(x_a)/dp df_j(x_b)/dp`` over the trained parameters p.
"""

from spectrank.ntk.analysis import alignment as alignment
from spectrank.ntk.analysis import spectrum as spectrum
from spectrank.ntk.analysis import velocity as velocity
from spectrank.ntk.dynamics import KernelFlow as KernelFlow
from spectrank.ntk.dynamics import Linearized as Linearized
from spectrank.ntk.dynamics import gradient_flow as gradient_flow
from spectrank.ntk.dynamics import largest_learning_rate as largest_learning_rate
from spectrank.ntk.dynamics import linearize as linearize
from spectrank.ntk.empirical import empirical as empirical
from spectrank.ntk.infinite import infinite_width as infinite_width
from spectrank.ntk.moments import moments as moments
from spectrank.ntk.operator import operator as operator
from spectrank.ntk.plan import plan as plan
