"""Search for the fewest layers to keep out of INT8 or FP16."""
