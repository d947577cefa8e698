"""Workers: the schedule opens phases, a loop claims, proposes, trains and tells, and a pool supervises processes."""
