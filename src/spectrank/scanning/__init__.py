"""Scan a model: every matrix, every metric, one table."""

from spectrank.scanning.compare import compare as compare
from spectrank.scanning.features import scan_features as scan_features
from spectrank.scanning.gate import Gate as Gate
from spectrank.scanning.gate import with_gates as with_gates
from spectrank.scanning.requests import DEFAULT_METRICS as DEFAULT_METRICS
from spectrank.scanning.requests import parse_metrics as parse_metrics
from spectrank.scanning.scan import Progress as Progress
from spectrank.scanning.scan import scan as scan
from spectrank.scanning.trend import scan_steps as scan_steps
