"""Frozen dataclasses that the stages exchange. No torch at run time, no I/O."""
