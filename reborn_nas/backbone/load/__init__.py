"""Load: from a name, a file or a factory to a network with the wanted input and classes."""
