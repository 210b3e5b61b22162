"""Tensors in, tensors out.

Spectra with an error, random matrices with a prescribed one, and, in ``moments``,
statistics of rows that pass by in batches.
"""

from spectrank.linalg.ensembles import SPECTRA as SPECTRA
from spectrank.linalg.ensembles import Ensemble as Ensemble
from spectrank.linalg.ensembles import SpectralMoments as SpectralMoments
from spectrank.linalg.ensembles import conv_kernel as conv_kernel
from spectrank.linalg.ensembles import ensemble as ensemble
from spectrank.linalg.haar import haar as haar
from spectrank.linalg.haar import haar_moments as haar_moments
from spectrank.linalg.implicit import BlockDiagonal as BlockDiagonal
from spectrank.linalg.implicit import CircularConvolution as CircularConvolution
from spectrank.linalg.implicit import FactorProduct as FactorProduct
from spectrank.linalg.implicit import Implicit as Implicit
from spectrank.linalg.implicit import Operand as Operand
from spectrank.linalg.implicit import PaddedConvolution as PaddedConvolution
from spectrank.linalg.measure import (
    DEFAULT_FAILURE_PROBABILITY as DEFAULT_FAILURE_PROBABILITY,
)
from spectrank.linalg.measure import DEFAULT_RTOL as DEFAULT_RTOL
from spectrank.linalg.measure import spectrum as spectrum
from spectrank.linalg.measure import (
    spectrum_and_subspaces as spectrum_and_subspaces,
)
from spectrank.linalg.routes import Certify as Certify
from spectrank.linalg.spectrum import NEEDS as NEEDS
from spectrank.linalg.spectrum import Need as Need
from spectrank.linalg.spectrum import Spectrum as Spectrum
from spectrank.linalg.stable_rank import with_stable_rank as with_stable_rank
from spectrank.linalg.value import Value as Value
