"""TOML files: targets, parity sets, calibration sets, precision recipes."""
