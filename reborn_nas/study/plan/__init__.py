"""Plans: from a number of trainings to phases, and from phases to runs. Pure functions of plain data."""
