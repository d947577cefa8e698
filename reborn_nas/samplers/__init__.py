"""Samplers and pruners: ordinary Optuna ones, by name."""
