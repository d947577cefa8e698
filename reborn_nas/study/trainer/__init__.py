"""Training: one run from its architecture to its record, with its checkpoints and weights."""
