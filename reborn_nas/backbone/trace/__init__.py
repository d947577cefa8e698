"""Trace: one run of a network on tensors without data, every operation with its place in the source."""
