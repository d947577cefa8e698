"""A paper's tables and figures measured again, on the ordinary engine."""

from reborn_nas.replicate.cells import Cell, Settings, select
from reborn_nas.replicate.compare import CELL_COLUMNS, COMPARISON_COLUMNS, cell_table, comparison_table
from reborn_nas.replicate.published import Replication, load_replication, shipped_replications
from reborn_nas.replicate.run import Outcome, Plan, plan_replication, run_replication

__all__ = [
    "CELL_COLUMNS",
    "COMPARISON_COLUMNS",
    "Cell",
    "Outcome",
    "Plan",
    "Replication",
    "Settings",
    "cell_table",
    "comparison_table",
    "load_replication",
    "plan_replication",
    "run_replication",
    "select",
    "shipped_replications",
]
