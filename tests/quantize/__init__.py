"""INT8: plans, recipes, and each quantizer."""
