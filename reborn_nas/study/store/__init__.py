"""The store: runs become trials of Optuna studies, claimed under a lease, told once, read back as records."""
