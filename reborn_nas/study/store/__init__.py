"""Storage: a run's studies in Optuna's storage, its queue of runs, and how both are read back."""
