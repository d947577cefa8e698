"""reborn-nas: where reborn blocks help in a CNN, by how much, and how surely."""

__version__ = "0.1.0"
