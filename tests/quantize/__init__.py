"""Tests of what becomes INT8, and how each ecosystem does it."""
