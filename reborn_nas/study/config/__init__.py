"""Configuration: flags, YAML and keywords are validated into one frozen `StudyConfig`."""
