"""Calibration: recipes, photographs, prompts, samples."""
