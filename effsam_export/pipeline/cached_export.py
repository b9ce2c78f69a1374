"""Run an export with the stage cache of the user, which exports and builds share."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.errors import OutputError
from effsam_export.pipeline import run as pipeline
from effsam_export.pipeline.cache_lock import shared
from effsam_export.pipeline.cache_results import STAGES, remove_excess
from effsam_export.pipeline.stage_cache import OUTPUTS, Fallback, StageCache, remove_incomplete
from effsam_export.util.owned import remove_abandoned, temporary_directory
from effsam_export.util.progress import StageEvent, ignore_event

if TYPE_CHECKING:
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.util.progress import OnEvent

BUILD = "build"
"""Name of the folder with the results of exports and builds in the user's cache."""
LIMIT_BYTES = 10e9
"""Size of all stages and outputs that stay in the cache after an export."""
FREE_BYTES, FREE_WEIGHTS = 1e9, 8
"""Free space without which an export uses no cache, plus this multiple of the weight file: traces
and artefacts, in the cache and before they are copied there, and the bundle."""


def with_cache(plan: ExportPlan, request: ExportRequest, folder: Path) -> ExportPlan:
    """Return the plan with the stage cache in the user's cache folder.

    Args:
        plan: The resolved request.
        request: The request with its checkpoint, and the size of that checkpoint's input.
        folder: The user's cache folder; nothing is read or written there.
    """
    import torch

    from effsam_export.pipeline.stage_keys import stage_parts

    parts = stage_parts(request, torch.get_num_threads())
    return replace(plan, stage_cache=StageCache(root=folder / BUILD / STAGES, parts=parts))


def run(plan: ExportPlan, on_event: OnEvent = ignore_event) -> ParityReport:
    """Run an export as `pipeline.run.run` does, and limit the size of its cache afterwards.

    A cache that cannot be used is left out, with a note.

    Args:
        plan: With its checkpoint; without `stage_cache` nothing is cached.
        on_event: Called with each stage event, and with the note.

    Raises:
        EffsamError: As `pipeline.run.run` raises it.
    """
    if plan.stage_cache is None:
        return pipeline.run(plan, on_event)
    stages = plan.stage_cache.root
    root = stages.parent

    def on_note(note: str) -> None:
        on_event(StageEvent(kind="note", stage="cache", detail=note))

    try:
        with ExitStack() as opened:
            fallback = Fallback(opened.enter_context(temporary_directory()), on_note)
            try:
                root.mkdir(parents=True, exist_ok=True)
                require_space(root, plan.weights.path.stat().st_size)
                opened.enter_context(shared(root))
                # Those of processes that were killed.
                remove_incomplete(stages)
                remove_abandoned(stages / OUTPUTS)
            except (OSError, OutputError) as error:
                fallback.use(root, error)
            cache = replace(plan.stage_cache, fallback=fallback)
            return pipeline.run(replace(plan, stage_cache=cache), on_event)
    finally:
        # An export that uses the cache meanwhile removes the excess at its own end.
        with suppress(OutputError):
            remove_excess(root, LIMIT_BYTES)


def require_space(root: Path, weights_bytes: int) -> None:
    """Check that the disks of the cache and of temporary files have space for an export's results.

    Args:
        root: An existing folder.
        weights_bytes: Size of the weight file.

    Raises:
        OutputError: One of them has not.
    """
    needed = FREE_BYTES + FREE_WEIGHTS * weights_bytes
    for folder in (root, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise OutputError(
                f"the disk of `{folder}` has {free / 1e9:.1f} GB left, of the "
                f"{needed / 1e9:.1f} GB that an export with a cache may need"
            )
