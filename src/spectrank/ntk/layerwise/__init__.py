"""Layerwise contraction: the empirical NTK from input and output-gradient Grams.

A parameter that multiplies the input of a layer has a gradient that is a sum of outer
products, one per position t: ``df_i(x)/dW = sum_t g_it h_t^T``. Its kernel is then

    K[a, b, i, j] = sum_ts (h_at . h_bs) (g_ait . g_bjs)

and no Jacobian is stored. ``supported`` tells which parameters have such a rule.
"""

from spectrank.ntk.layerwise.kernel import layer_kernels as layer_kernels
from spectrank.ntk.layerwise.kernel import layerwise_kernel as layerwise_kernel
from spectrank.ntk.layerwise.support import Support as Support
from spectrank.ntk.layerwise.support import supported as supported
