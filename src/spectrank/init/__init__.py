"""Initialisers with a prescribed stable rank, and how close a layer is to its own."""

from spectrank.init.apply import apply_ as apply_
from spectrank.init.fill import adjust_ as adjust_
from spectrank.init.fill import stable_rank_ as stable_rank_
