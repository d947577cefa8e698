"""Sites: which recorded operations are activations, and which choices may replace them."""
