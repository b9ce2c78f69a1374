"""The package's version. Hatchling reads it; nothing else is here."""

__version__ = "0.1.0"
