"""A table as plain columns, for what is built column by column and read many times before anyone looks at it.

A DataFrame takes a tenth of a millisecond for every column that is set or read; a report sets and reads hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Columns", "Table", "floats"]


class Columns:
    """Columns of one length by name, and numbers about all of them, as a DataFrame has them.

    Args:
        columns: the first is never missing, and has the length of all.
        attrs: by name.
    """

    __slots__ = ("attrs", "columns")

    def __init__(self, columns: Mapping[str, Any], attrs: Mapping[Any, Any] | None = None) -> None:
        self.columns = dict(columns)
        self.attrs = dict(attrs or {})

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def __setitem__(self, name: str, values: Any) -> None:
        self.columns[name] = values

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def frame(self) -> pd.DataFrame:
        """The same as a DataFrame."""
        table = pd.DataFrame(self.columns)
        table.attrs.update(self.attrs)
        return table


Table = Columns | pd.DataFrame
"""What estimates are read from: both give a column by its name, and have `attrs`."""


def floats(table: Table, name: str) -> npt.NDArray[np.float64]:
    """A column of numbers."""
    return np.asarray(table[name], dtype=np.float64)
