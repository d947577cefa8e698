"""Replace: a plan of the conversion as plain data, and applying it."""
