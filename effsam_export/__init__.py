"""Export efficient Segment-Anything models, with proof that they still segment."""

__version__ = "0.1.0"
