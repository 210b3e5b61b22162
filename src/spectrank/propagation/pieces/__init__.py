"""Linear pieces along a curve, counted by events, and the length of its image."""

from spectrank.propagation.pieces.count import count_pieces as count_pieces
from spectrank.propagation.pieces.curves import arc as arc
