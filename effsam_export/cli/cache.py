"""`effsam cache`: show and clean the cache of `effsam build`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.options import CacheDir, Json
from effsam_export.errors import OutputError


def cache(
    remove_unused: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--remove-unused",
            metavar="DAYS",
            min=0,
            help="Remove entries that no build has used for DAYS days; 0 removes all.",
        ),
    ] = None,
    json: Json = False,
    cache_dir: CacheDir = None,
) -> None:
    """Show the size of the build cache, or remove unused entries.

    Downloaded checkpoints and written bundles are not removed.
    """
    from effsam_export.matrix import cleaning
    from effsam_export.weights.fetch import default_cache_dir

    root = (cache_dir or default_cache_dir()) / "build"
    if root.exists() and not root.is_dir():
        raise OutputError(f"`{root}` is not a directory", hint="choose another --cache-dir")
    removed = None if remove_unused is None else cleaning.remove_unused(root, remove_unused)
    left = cleaning.cached_results(root)
    kinds = ("bundles", "stages", "outputs")

    def total(of: list[cleaning.CachedResult], kind: str) -> dict[str, int]:
        chosen = [k for k in of if k.kind == kind]
        return {"results": len(chosen), "bytes": sum(k.bytes for k in chosen)}

    if json:
        document = {"path": str(root), "kept": {kind: total(left, kind) for kind in kinds}}
        if removed is not None:
            document["removed"] = {kind: total(removed, kind) for kind in kinds}
        console.document(document)
        return
    console.data(f"{root}\n")
    rows = []
    for kind in kinds:
        sums = [total(left, kind), *([] if removed is None else [total(removed, kind)])]
        rows.append(
            [kind, *(text for s in sums for text in (str(s["results"]), f"{s['bytes'] / 1e6:.1f}"))]
        )
    header = ("what", "kept", "MB", *(() if removed is None else ("removed", "MB")))
    console.data(console.table(header, rows))
