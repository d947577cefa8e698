"""Sites: which recorded operations are activations, and what may stand in their place."""
