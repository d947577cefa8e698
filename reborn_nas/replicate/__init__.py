"""Measures a paper's tables and figures again by ordinary studies: published → cells → run → compare → write."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reborn_nas.replicate.cells import LEAST_TEST, Cell, Settings, count_rows, select
    from reborn_nas.replicate.compare import CELL_COLUMNS, COMPARISON_COLUMNS, cell_table, comparison_table
    from reborn_nas.replicate.figure import draw_figures
    from reborn_nas.replicate.published import Replication, load_replication, shipped_replications
    from reborn_nas.replicate.run import Outcome, Plan, plan_replication, run_replication
    from reborn_nas.replicate.writing import (
        CELL_HEADS,
        COMPARISON_HEADS,
        cell_rows,
        comparison_rows,
        tables,
        write_tables,
    )

_LAZY = {  # not needed for the help of the command line
    "CELL_COLUMNS": "compare",
    "CELL_HEADS": "writing",
    "COMPARISON_COLUMNS": "compare",
    "COMPARISON_HEADS": "writing",
    "Cell": "cells",
    "LEAST_TEST": "cells",
    "Outcome": "run",
    "Plan": "run",
    "Replication": "published",
    "Settings": "cells",
    "cell_rows": "writing",
    "cell_table": "compare",
    "comparison_rows": "writing",
    "comparison_table": "compare",
    "count_rows": "cells",
    "draw_figures": "figure",
    "load_replication": "published",
    "plan_replication": "run",
    "run_replication": "run",
    "select": "cells",
    "shipped_replications": "published",
    "tables": "writing",
    "write_tables": "writing",
}

__all__ = [
    "CELL_COLUMNS",
    "CELL_HEADS",
    "COMPARISON_COLUMNS",
    "COMPARISON_HEADS",
    "LEAST_TEST",
    "Cell",
    "Outcome",
    "Plan",
    "Replication",
    "Settings",
    "cell_rows",
    "cell_table",
    "comparison_rows",
    "comparison_table",
    "count_rows",
    "draw_figures",
    "load_replication",
    "plan_replication",
    "run_replication",
    "select",
    "shipped_replications",
    "tables",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    """Import names on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
