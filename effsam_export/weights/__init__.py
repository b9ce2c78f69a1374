"""Find, download and read checkpoints."""
