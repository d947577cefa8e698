"""Widen: doubled sites and traces → the steps by which tensors and layers behind them grow → a wider network."""
