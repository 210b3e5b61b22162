"""Reading what may be damaged: rows or a CheckpointError, never another exception."""

from pathlib import Path

from spectrank.errors import CheckpointError
from spectrank.model import WeightMatrix, iter_weights


def read_all(source: Path | dict) -> int:
    """Read every row of a source; only CheckpointError is allowed.

    Returns:
        Number of matrices whose values were read.
    """
    read = 0
    try:
        for row in iter_weights(source):
            if isinstance(row, WeightMatrix):
                row.tensor().double().sum()
                read += 1
    except CheckpointError:
        pass
    return read
