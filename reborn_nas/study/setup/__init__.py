"""The set-up: a configuration becomes a workbench of network, sites, space and data, and that a plan."""
