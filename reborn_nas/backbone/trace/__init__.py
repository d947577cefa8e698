"""Trace: a network and its inputs → one recorded forward run, each operation with its place in the source."""
