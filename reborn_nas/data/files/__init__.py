"""Image files: which there are, what their headers decide, and their pixels."""
