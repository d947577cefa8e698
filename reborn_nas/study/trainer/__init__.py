"""The trainer: a run and its architecture become a trained network, and that a record, a curve and checkpoints."""
