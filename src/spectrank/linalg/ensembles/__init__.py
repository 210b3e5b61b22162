"""Random matrices with a prescribed stable rank between Haar factors."""

from spectrank.linalg.ensembles.conv import conv_kernel as conv_kernel
from spectrank.linalg.ensembles.ensemble import Ensemble as Ensemble
from spectrank.linalg.ensembles.ensemble import MeasuredSample as MeasuredSample
from spectrank.linalg.ensembles.law import SpectralMoments as SpectralMoments
from spectrank.linalg.ensembles.make import SPECTRA as SPECTRA
from spectrank.linalg.ensembles.make import ensemble as ensemble
