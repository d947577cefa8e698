"""Sites: traces of both modes → units of activation → places with final names → sites and non-sites."""
