"""Versions of packages, by the name of the package or of its module."""

from __future__ import annotations

from importlib import metadata

from effsam_export.util import installed


def test_versions_by_package_and_by_module() -> None:
    assert installed.version_of("numpy") == metadata.version("numpy")
    assert installed.version_of("PIL") == metadata.version("pillow")
    assert installed.version_of("no-such-package") == installed.ABSENT
