"""Results: from a run's records to findings, tables and words."""
