"""Data sets that are Python objects: torch's Datasets, and timm's readers. Read once, item by item, into the cache."""
