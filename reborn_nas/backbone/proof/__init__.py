"""Proof: the converted network runs the same program and computes the same numbers, sites aside."""
