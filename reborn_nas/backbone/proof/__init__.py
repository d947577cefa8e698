"""Proof: a network and its sites → runs before and after conversion → the sites that convert truly, or why not."""
