"""Model: accuracy as a sum over the sites' choices, and the best network under budgets."""
