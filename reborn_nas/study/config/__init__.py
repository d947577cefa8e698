"""Settings: what a study is asked to do, read from flags, YAML and keywords into one frozen `StudyConfig`."""
