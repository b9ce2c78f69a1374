"""Select the operators that stay in FP32, and measure value ranges for FP16."""
