"""Load: a name, a file or a factory → a complete spec → a network with the requested input and classes."""
