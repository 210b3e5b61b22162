"""Infinite-width kernels read from a module: NNGP and NTK."""

from spectrank.ntk.infinite.kernel import Kernel as Kernel
from spectrank.ntk.infinite.make import infinite_width as infinite_width
