"""List the cached results of exports and builds, and remove those that are not used any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.matrix.store import BUILT
from effsam_export.pipeline.cache_lock import exclusive
from effsam_export.pipeline.cache_results import CachedResult, remove, results_of, stage_results
from effsam_export.pipeline.stage_cache import unwritable

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 24 * 60 * 60


def cached_results(root: Path) -> list[CachedResult]:
    """Return all results in the cache folder `Store.root`; none if it does not exist."""
    bundles = results_of(("bundles", p, p / BUILT) for p in root.glob("bundles/*"))
    return bundles + stage_results(root)


def remove_unused(root: Path, days: float) -> list[CachedResult]:
    """Remove results that were not used for some days, and return them.

    Args:
        root: Folder of the store.
        days: Minimum age; 0 removes everything.

    Raises:
        OutputError: An export or a build is using the cache, or a file cannot be removed.
    """
    if not root.is_dir():
        return []
    try:
        with exclusive(root):
            old = [k for k in cached_results(root) if k.unused_s >= days * DAY_S]
            remove(root, old)
    except OSError as error:
        raise unwritable(root, error) from error
    return old
