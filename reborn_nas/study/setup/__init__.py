"""Setup: data, network, sites, costs and time of a study, settled in each process before its first training."""
