"""What the sites see (the paper's Figs. 1 and 4): feature maps and what becomes of a signal at each site."""
