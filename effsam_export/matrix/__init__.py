"""Many exports from one file: planned, cached by content, run in worker processes."""
