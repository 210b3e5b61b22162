"""Sinks: where the rows of a run go, in memory or in parts on disk.

A sink takes Tables, so that each batch of rows brings its columns and its provenance
along. Iterating a Table gives rows as mappings, which is all that a sink for a logging
service needs.
"""

from spectrank.train.sinks.base import MemorySink as MemorySink
from spectrank.train.sinks.base import Sink as Sink
from spectrank.train.sinks.parquet import ParquetSink as ParquetSink
