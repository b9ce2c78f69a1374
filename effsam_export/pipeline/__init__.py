"""An export from checkpoint to bundle, and its verification."""
