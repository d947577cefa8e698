"""Effects: from the runs of a screen to the table of its sites, with intervals and verdicts."""
