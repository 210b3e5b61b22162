"""Laws as data: which sums of which parameters are conserved, and their values."""

from spectrank.invariance.laws.collection import Laws as Laws
from spectrank.invariance.laws.evaluation import evaluate as evaluate
from spectrank.invariance.laws.evaluation import evaluate_all as evaluate_all
from spectrank.invariance.laws.evaluation import polar as polar
from spectrank.invariance.laws.evaluation import polar_all as polar_all
from spectrank.invariance.laws.law import Form as Form
from spectrank.invariance.laws.law import Law as Law
from spectrank.invariance.laws.law import LawKind as LawKind
from spectrank.invariance.laws.law import NoLaw as NoLaw
from spectrank.invariance.laws.offsets import Offset as Offset
from spectrank.invariance.laws.offsets import centred as centred
from spectrank.invariance.laws.terms import GramTerm as GramTerm
from spectrank.invariance.laws.terms import LinearTerm as LinearTerm
from spectrank.invariance.laws.terms import SquareTerm as SquareTerm
from spectrank.invariance.laws.terms import Term as Term
