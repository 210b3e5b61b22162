"""Moments of |Wx|^2 and of its logarithm for one random layer."""
