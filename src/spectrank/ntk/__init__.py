"""The neural tangent kernel: empirical, infinite-width, its moments and its dynamics.

Convention: standard parametrisation; ``K[a, b, i, j]`` is the sum of
``df_i(x_a)/dp df_j(x_b)/dp`` over the trained parameters p.
"""
