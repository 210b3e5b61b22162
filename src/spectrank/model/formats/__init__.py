"""Files of other worlds as entries, each read by its own library where there is one.

One file a format: its tensors under their own names, one in memory at a time, decoded
where they are quantised. No program in a file is executed.
"""

from __future__ import annotations
