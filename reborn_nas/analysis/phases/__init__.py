"""Phases after the screen: comparisons of networks, retest, control, and the sentences they allow."""
