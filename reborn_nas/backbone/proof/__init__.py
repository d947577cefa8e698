"""Proof: a network and its sites → runs before and after conversion → the sites that convert faithfully, or why not."""
