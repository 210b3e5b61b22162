"""Experiments: data, claims, studies, one folder for each paper.

`reproduce` puts the claims of a paper to the test and returns a Table; `Claim` and
`judge` make a verdict of anybody's measurements.
"""

from spectrank.experiments.claims import Claim as Claim
from spectrank.experiments.papers import Paper as Paper
from spectrank.experiments.papers import get_paper as get_paper
from spectrank.experiments.papers import list_papers as list_papers
from spectrank.experiments.running import Progress as Progress
from spectrank.experiments.running import reproduce as reproduce
from spectrank.experiments.verdicts import figure_point as figure_point
from spectrank.experiments.verdicts import judge as judge
from spectrank.experiments.verdicts import not_applicable as not_applicable
