"""Oracles of training invariances: they share no code with the finder of laws.

``rates`` is the rate test (a law is right iff its gradient is orthogonal to that of
every risk), ``brute_force`` the space of all linear and quadratic laws of a small net,
``compare`` what a list of laws gets wrong and what it misses, ``ZOO`` small copies of
the standard blocks with the number of laws that each has.
"""

from invariance_oracles.brute import Space as Space
from invariance_oracles.brute import brute_force as brute_force
from invariance_oracles.brute import diagonal_count as diagonal_count
from invariance_oracles.case import Case as Case
from invariance_oracles.case import draws as draws
from invariance_oracles.case import randomised as randomised
from invariance_oracles.compare import Comparison as Comparison
from invariance_oracles.compare import compare as compare
from invariance_oracles.compare import quick_compare as quick_compare
from invariance_oracles.compare import rates as rates
from invariance_oracles.forms import Layout as Layout
from invariance_oracles.forms import law_vectors as law_vectors
from invariance_oracles.zoo import ZOO as ZOO
