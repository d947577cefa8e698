"""A training as data: its recipe, the recipes that have a name, and those in files."""
