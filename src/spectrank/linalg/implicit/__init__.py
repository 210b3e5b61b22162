"""Matrices that are never formed: known by the few tensors they are made of.

`spectrank.linalg.spectrum` takes each of them beside a 2-D tensor.
"""

from spectrank.linalg.implicit.base import Implicit as Implicit
from spectrank.linalg.implicit.base import Operand as Operand
from spectrank.linalg.implicit.block_diagonal import BlockDiagonal as BlockDiagonal
from spectrank.linalg.implicit.circular import (
    CircularConvolution as CircularConvolution,
)
from spectrank.linalg.implicit.factor_product import FactorProduct as FactorProduct
from spectrank.linalg.implicit.padded import PaddedConvolution as PaddedConvolution
