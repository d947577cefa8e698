"""Widen: doubled sites and traces → the steps by which the following tensors and layers grow → a wider network."""
