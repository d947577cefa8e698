"""Forward: the source of a class's `forward`, edited so that one call becomes a module's."""
