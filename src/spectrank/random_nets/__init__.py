"""Random networks with prescribed spectra, and the gains of their activations."""

from spectrank.linalg.ensembles.layer import LayerLaw as LayerLaw
from spectrank.random_nets.activations import activation_gain as activation_gain
from spectrank.random_nets.activations import mean_square as mean_square
from spectrank.random_nets.mlp import RandomMLP as RandomMLP
