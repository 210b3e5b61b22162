"""Training invariances: what gradient flow conserves, and what follows from it."""

from spectrank.invariance.find import find as find
from spectrank.invariance.laws import Laws as Laws
