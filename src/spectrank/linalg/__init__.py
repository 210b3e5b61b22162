"""Tensors in, tensors out: spectra with an error, Krylov enclosures, Gram matrices."""

from spectrank.linalg.spectrum import NEEDS as NEEDS
from spectrank.linalg.spectrum import Need as Need
from spectrank.linalg.spectrum import Spectrum as Spectrum
from spectrank.linalg.spectrum import spectrum as spectrum
from spectrank.linalg.value import Value as Value
