"""Phases after the screen: comparisons of whole networks, retest, control, and the sentences they allow."""
