"""Simulations: studies and search problems with a planted truth."""
