"""Certificates: what the start of a training promises about the rank of a tail."""

from spectrank.invariance.certificates.certify import certify as certify
from spectrank.invariance.certificates.levels import Inner as Inner
from spectrank.invariance.certificates.levels import Level as Level
from spectrank.invariance.certificates.levels import dense_levels as dense_levels
from spectrank.invariance.certificates.levels import gap as gap
from spectrank.invariance.certificates.recursion import TailBound as TailBound
from spectrank.invariance.certificates.recursion import tail_bounds as tail_bounds
from spectrank.invariance.certificates.tail import Tail as Tail
from spectrank.invariance.certificates.tail import find_tail as find_tail
