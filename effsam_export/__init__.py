"""Export efficient Segment-Anything models, with proof that they still segment."""

from effsam_export._version import __version__

__all__ = ["__version__"]
