"""Model graph: which layer feeds which, through what; unknowns named, never guessed."""

from spectrank.model.graph.build import graph as graph
from spectrank.model.graph.graph import Graph as Graph
from spectrank.model.graph.junctions import Branch as Branch
from spectrank.model.graph.junctions import Junction as Junction
from spectrank.model.graph.nodes import Link as Link
from spectrank.model.graph.nodes import MatrixView as MatrixView
from spectrank.model.graph.nodes import Node as Node
from spectrank.model.graph.normalised import Normalisation as Normalisation
