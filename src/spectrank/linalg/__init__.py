"""Tensors in, tensors out: spectra with an error, Krylov enclosures, Gram matrices."""

from spectrank.linalg.measure import (
    DEFAULT_FAILURE_PROBABILITY as DEFAULT_FAILURE_PROBABILITY,
)
from spectrank.linalg.measure import DEFAULT_RTOL as DEFAULT_RTOL
from spectrank.linalg.measure import spectrum as spectrum
from spectrank.linalg.routes import Certify as Certify
from spectrank.linalg.spectrum import NEEDS as NEEDS
from spectrank.linalg.spectrum import Need as Need
from spectrank.linalg.spectrum import Spectrum as Spectrum
from spectrank.linalg.value import Value as Value
