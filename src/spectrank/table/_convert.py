"""A Table's frame as a pandas DataFrame, without pyarrow."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from spectrank.errors import TableError

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


def to_pandas(frame: pl.DataFrame, provenance: Mapping[str, Any]) -> "pd.DataFrame":
    """Convert column by column; `polars.DataFrame.to_pandas` would need pyarrow.

    Args:
        frame: The long frame.
        provenance: Becomes ``.attrs["provenance"]``.

    Returns:
        Text, integers and booleans in nullable dtypes, floats with NaN for null,
        lists as objects.

    Raises:
        TableError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise TableError(
            "to_pandas() needs pandas, which is not installed; "
            "run pip install 'spectrank[pandas]'"
        ) from error
    result = pd.DataFrame(
        {
            column.name: pd.Series(column.to_list(), dtype=_pandas_dtype(column.dtype))
            for column in frame
        }
    )
    result.attrs["provenance"] = copy.deepcopy(dict(provenance))
    return result


def _pandas_dtype(dtype: pl.DataType) -> str:
    if dtype == pl.String:
        return "string"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_integer():
        return str(dtype)
    return str(dtype).lower() if dtype.is_float() else "object"
