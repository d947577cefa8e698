"""Replace: an architecture → admitted choices → a plan, which is data → the converted network."""
