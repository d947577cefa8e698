"""The device of a training: which one, what it is, in which arithmetic it computes, and the CPU's cores and memory."""
