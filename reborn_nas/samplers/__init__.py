"""Samplers: Optuna samplers and pruners by name; they propose trials from the finished ones of a study."""
