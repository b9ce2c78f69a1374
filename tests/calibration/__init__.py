"""Calibration images, prompts and samples."""
