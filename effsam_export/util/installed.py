"""Versions of what is installed, by the name of a package or of its module."""

from __future__ import annotations

from functools import cache
from importlib import metadata

ABSENT = "not installed"


@cache
def version_of(package: str) -> str:
    """Version of a package by its name or by that of its module; `ABSENT` where it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(package)
        return metadata.version(owners[0]) if owners else ABSENT
