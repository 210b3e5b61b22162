"""Blocked Jacobian contraction by ``torch.func``: the route for any module."""

from spectrank.ntk.jacobian.kernel import jacobian_kernel as jacobian_kernel
from spectrank.ntk.jacobian.rows import Rows as Rows
