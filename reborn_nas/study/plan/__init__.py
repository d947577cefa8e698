"""The plan: a total becomes phases, and these, with the records of earlier ones, the runs to be trained."""
