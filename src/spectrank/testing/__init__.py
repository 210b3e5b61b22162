"""The public conformance suite for metrics and plug-ins."""

from spectrank.testing.conformance import check_metric as check_metric
