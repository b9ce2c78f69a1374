"""Fuzzing of all that reads files of strangers: `make test-fuzz`, minutes for each reader."""
