"""One trial of INT8 recipes: an export by the target's own quantizer, compared with PyTorch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed
from effsam_export.pipeline import isolate
from effsam_export.pipeline.component import export_components
from effsam_export.pipeline.prove import prove
from effsam_export.pipeline.workspace import Workspace
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.calibration.samples import Calibration
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.util.progress import OnEvent


def trial(
    plan: ExportPlan,
    module: nn.Module,
    calibration: Calibration,
    scratch: Path,
    on_event: OnEvent,
) -> ParityReport | None:
    """Export by the recipes of a plan, and compare the masks with PyTorch's. No file is kept.

    Args:
        plan: Its stage cache saves traces and PyTorch's outputs between trials.
        module: The loaded model.
        calibration: The calibration images.
        scratch: Folder for temporary files.
        on_event: Called with each stage event.

    Returns:
        The report; None if the toolchain refuses the recipes, as a file with hardly any INT8
        weights.

    Raises:
        ConversionFailed: A converter crashed, which says nothing about the masks.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix="trial-") as name:
        space = Workspace(work=Path(name), scratch=Path(name), on_event=on_event)
        try:
            exported = export_components(plan, module, calibration, space)
        except isolate.ConversionFailed:
            raise
        except CheckFailed:
            return None
        with stage("evaluate", on_event) as running:
            return prove(plan, module, exported, running.on_progress).report
