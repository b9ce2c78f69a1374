"""Frozen records that stages hand to each other. No torch at run time, no input or output."""
