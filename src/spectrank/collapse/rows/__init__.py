"""The rows of a measured model: each layer's, then those of the whole."""

from spectrank.collapse.rows.capped import capped_rows as capped_rows
from spectrank.collapse.rows.layer import layer_rows as layer_rows
from spectrank.collapse.rows.model import depth_rows as depth_rows
from spectrank.collapse.rows.model import output_rows as output_rows
from spectrank.collapse.rows.request import COLUMNS as COLUMNS
from spectrank.collapse.rows.request import Request as Request
