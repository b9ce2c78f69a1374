"""Versions of installed packages."""

from __future__ import annotations

from functools import cache
from importlib import metadata

ABSENT = "not installed"


@cache
def version_of(package: str) -> str:
    """Return the version of a package, given its name or its module's; `ABSENT` without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(package)
        return metadata.version(owners[0]) if owners else ABSENT
