"""The verbs, one module each: `EXAMPLES`, `add(parser)`, and `run(args)`, which calls `api` and prints."""
