"""Exports of tests through the stage cache that all workers of a session share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.request import ExportRequest


def sharing(request: ExportRequest, root: Path) -> ExportRequest:
    """The request with the cache at `root`, keyed as a build of many cells keys it."""
    import torch

    from effsam_export.matrix import keys
    from effsam_export.pipeline.stage_cache import StageCache

    parts = keys.stage_parts(request, torch.get_num_threads())
    return replace(request, stage_cache=StageCache(root=root, parts=parts))


def export(request: ExportRequest, root: Path) -> ParityReport:
    """Export with what other tests left at `root`."""
    from effsam_export.pipeline import run

    return run.export(sharing(request, root))
