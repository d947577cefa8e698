"""Workers: processes that take runs from the queue and train them, and the leader that opens the next phase."""
