"""Results: what a run found, for the terminal and for optuna-dashboard."""
