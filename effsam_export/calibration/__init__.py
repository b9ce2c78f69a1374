"""Calibration images, prompts and samples for INT8 quantization."""
