"""Page: figures, tables and text become a page, and the page becomes files."""
