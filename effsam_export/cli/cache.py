"""`effsam cache`: show what the cache holds, and clean it; downloads and bundles stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import CacheDir, Json
from effsam_export.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.pipeline.cache_results import CachedResult


def cache(
    remove_unused: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--remove-unused",
            metavar="DAYS",
            min=0,
            help="Remove entries that no export or build has used for DAYS days; 0 removes all.",
        ),
    ] = None,
    json: Json = False,
    cache_dir: CacheDir = None,
) -> None:
    """Show what the cache holds, or remove unused entries of exports and builds.

    Downloaded checkpoints and written bundles are not removed.
    """
    from effsam_export import models
    from effsam_export.matrix import cleaning
    from effsam_export.pipeline.cache_results import remove
    from effsam_export.weights.fetch import default_cache_dir
    from effsam_export.weights.stored import stored_files

    folder = cache_dir or default_cache_dir()
    root = folder / "build"
    if root.exists() and not root.is_dir():
        raise OutputError(f"`{root}` is not a directory", hint="choose another --cache-dir")
    removed = None
    if remove_unused is not None:
        removed = cleaning.remove_unused(root, remove_unused)
        old = [r for r in _records(folder) if r.unused_s >= remove_unused * cleaning.DAY_S]
        remove(folder, old)
        removed += old
    left = cleaning.cached_results(root) + _records(folder)
    files = stored_files(folder, {name: models.get(name).weights for name in models.names()})
    kinds = ("bundles", "stages", "outputs", "searches", "evaluations")

    def total(of: list[CachedResult], kind: str) -> dict[str, int]:
        chosen = [k for k in of if k.kind == kind]
        return {"results": len(chosen), "bytes": sum(k.bytes for k in chosen)}

    if json:
        document = {
            "path": str(root),
            "kept": {kind: total(left, kind) for kind in kinds},
            "checkpoints": [
                {
                    "path": str(file.path),
                    "bytes": file.bytes,
                    "models": list(file.models),
                    "complete": file.complete,
                }
                for file in files
            ],
        }
        if removed is not None:
            document["removed"] = {kind: total(removed, kind) for kind in kinds}
        console.document(document)
        return
    console.data(f"{folder}\n")
    rows = [["checkpoints", str(len(files)), f"{sum(f.bytes for f in files) / 1e6:.1f}"]]
    for kind in kinds:
        sums = [total(left, kind), *([] if removed is None else [total(removed, kind)])]
        rows.append(
            [kind, *(text for s in sums for text in (str(s["results"]), f"{s['bytes'] / 1e6:.1f}"))]
        )
    header = ("what", "kept", "MB", *(() if removed is None else ("removed", "MB")))
    if removed is not None:
        rows[0] += ["0", "0.0"]
    console.data(console.table(header, rows))
    if files:
        rows = [
            [
                str(file.path.relative_to(folder)),
                f"{file.bytes / 1e6:.1f}",
                ("" if file.complete else "incomplete ") + (", ".join(file.models) or "-"),
            ]
            for file in files
        ]
        console.data(f"\n{console.table(('checkpoint', 'MB', 'of'), rows)}")


def _records(folder: Path) -> list[CachedResult]:
    """Return the files of searches for INT8 recipes and of evaluations in the cache folder."""
    from effsam_export.evaluate import log
    from effsam_export.pipeline.cache_results import results_of
    from effsam_export.pipeline.int8 import SEARCHES

    return results_of(
        (kind, path, path)
        for kind, name, ending in (
            ("searches", SEARCHES, ".json"),
            ("evaluations", log.FOLDER, log.SUFFIX),
        )
        for path in (folder / name).glob(f"*{ending}")
    )
