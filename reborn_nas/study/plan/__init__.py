"""The plan: a total becomes phases, and each phase, with the records of earlier ones, becomes runs to train."""
