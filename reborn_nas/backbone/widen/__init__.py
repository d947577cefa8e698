"""Widen: which tensors must grow behind a doubled activation, and making them grow."""
