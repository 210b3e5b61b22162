"""spectrank: the rank of the layers of a deep network, with an error on each number.

Names load on first use, so that ``import spectrank`` and the command line's help do
not wait for torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectrank import collapse as collapse
    from spectrank import errors as errors
    from spectrank import experiments as experiments
    from spectrank import init as init
    from spectrank import invariance as invariance
    from spectrank import linalg as linalg
    from spectrank import metrics as metrics
    from spectrank import model as model
    from spectrank import ntk as ntk
    from spectrank import propagation as propagation
    from spectrank import report as report
    from spectrank import scanning as scanning
    from spectrank import testing as testing
    from spectrank import train as train
    from spectrank.linalg import Spectrum as Spectrum
    from spectrank.linalg import Value as Value
    from spectrank.linalg import spectrum as spectrum
    from spectrank.metrics import Metric as Metric
    from spectrank.metrics import get_metric as get_metric
    from spectrank.metrics import list_metrics as list_metrics
    from spectrank.model import Graph as Graph
    from spectrank.model import WeightMatrix as WeightMatrix
    from spectrank.model import capture as capture
    from spectrank.model import graph as graph
    from spectrank.model import iter_matrices as iter_matrices
    from spectrank.random_nets import RandomMLP as RandomMLP
    from spectrank.report import write_html as write_html
    from spectrank.scanning import compare as compare
    from spectrank.scanning import scan as scan
    from spectrank.scanning import scan_features as scan_features
    from spectrank.scanning import scan_steps as scan_steps
    from spectrank.table import Table as Table
    from spectrank.train import Tracker as Tracker

_MODULES = frozenset(
    [
        "collapse",
        "errors",
        "experiments",
        "init",
        "invariance",
        "linalg",
        "metrics",
        "model",
        "ntk",
        "propagation",
        "report",
        "scanning",
        "testing",
        "train",
    ]
)
_NAMES = {
    "Spectrum": "linalg",
    "Value": "linalg",
    "spectrum": "linalg",
    "Metric": "metrics",
    "get_metric": "metrics",
    "list_metrics": "metrics",
    "Graph": "model",
    "WeightMatrix": "model",
    "capture": "model",
    "graph": "model",
    "iter_matrices": "model",
    "RandomMLP": "random_nets",
    "write_html": "report",
    "compare": "scanning",
    "scan": "scanning",
    "scan_features": "scanning",
    "scan_steps": "scanning",
    "Table": "table",
    "Tracker": "train",
}

__all__ = [
    *sorted(_MODULES),
    *sorted(_NAMES),
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("spectrank")
    if name in _MODULES:
        return importlib.import_module(f"spectrank.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(f"spectrank.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'spectrank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
