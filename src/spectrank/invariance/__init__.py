"""Training invariances: what gradient flow conserves, and what follows from it."""

from spectrank.invariance.balance import balance_ as balance_
from spectrank.invariance.certificates import certify as certify
from spectrank.invariance.counting import LawCount as LawCount
from spectrank.invariance.counting import count_laws as count_laws
from spectrank.invariance.dags import Dag as Dag
from spectrank.invariance.dags import dag_of as dag_of
from spectrank.invariance.decomposition import SignTree as SignTree
from spectrank.invariance.decomposition import path_values as path_values
from spectrank.invariance.decomposition import sign_tree as sign_tree
from spectrank.invariance.find import find as find
from spectrank.invariance.growth import growth_exponent as growth_exponent
from spectrank.invariance.growth import predicted_norm_squared as predicted_norm_squared
from spectrank.invariance.laws import Law as Law
from spectrank.invariance.laws import Laws as Laws
from spectrank.invariance.laws import evaluate as evaluate
from spectrank.invariance.laws import polar as polar
from spectrank.invariance.margins import margins as margins
from spectrank.invariance.pairs import gap_rate as gap_rate
from spectrank.invariance.pairs import pair_laws as pair_laws
from spectrank.invariance.watching import Watch as Watch
