"""Probe: what the sites of two trained networks see."""
