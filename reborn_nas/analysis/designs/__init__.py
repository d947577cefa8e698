"""Designs: which site is reborn in which run."""
