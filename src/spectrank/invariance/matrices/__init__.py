"""Matrix laws: features that every step treats alike, and their gap matrices."""

from spectrank.invariance.matrices.find import Block as Block
from spectrank.invariance.matrices.find import matrix_laws as matrix_laws
