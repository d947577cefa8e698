"""Page: figures, tables and words put together, and the files written."""
