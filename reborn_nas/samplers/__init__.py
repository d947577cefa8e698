"""Samplers: a study's finished trials become the next proposal; ordinary Optuna samplers and pruners, by name."""
