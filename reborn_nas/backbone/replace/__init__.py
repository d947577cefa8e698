"""Replace: an architecture → the choices that its sites admit → a plan, which is data → the converted network."""
