"""The result: records become the networks that a run has to show, and notes and graphs for optuna-dashboard."""
