"""The export from checkpoint to bundle, and the verification of bundles."""
