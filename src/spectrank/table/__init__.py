"""The one result type: a long frame of measurements with its provenance.

One row is one number (or one spectrum) of one matrix, with its error, its status
and the route that produced it; ``Table`` writes, reads and shows such rows.
"""

from spectrank.table._files import check_target as check_target
from spectrank.table._path import as_path as as_path
from spectrank.table._schema import SCHEMA_VERSION as SCHEMA_VERSION
from spectrank.table._table import Table as Table
from spectrank.table._text import name_width as name_width
from spectrank.table._text import shortened as shortened
from spectrank.table._whole import write_whole as write_whole
