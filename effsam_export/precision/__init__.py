"""Which parts of a graph stay in FP32, and what FP16 does to the rest."""
