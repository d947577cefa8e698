"""The result: records become the named networks of a run, and notes and graphs for optuna-dashboard."""
