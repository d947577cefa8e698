"""The store: runs become trials of Optuna studies, claimed under a lease, told once, and read back as records."""
