"""Small copies of the standard blocks, with the number of laws that each has.

The counts are those of the theory of the standard blocks: worked out by hand and met
by brute force. Sizes are as small as the block allows without being special.
"""

from invariance_oracles.zoo_conv import CONV
from invariance_oracles.zoo_dense import DENSE
from invariance_oracles.zoo_sequence import SEQUENCE

ZOO = {case.name: case for case in (*DENSE, *CONV, *SEQUENCE)}
