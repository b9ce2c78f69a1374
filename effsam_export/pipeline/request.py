"""What an export is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from effsam_export.models import fixed

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.config.calibration import CalibrationRecipe
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Int8Request:
    """How an INT8 export is calibrated and what it quantizes."""

    calibration: CalibrationRecipe
    plan: Int8Plan


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What is to be exported.

    Attributes:
        components: Names; all of the model's when empty.
        output: Directory of the bundle.
        parity_file: A user's own photographs and prompts, or None for those that ship.
        force: Replace a bundle that is at `output`.
        int8: What an INT8 export calibrates on and quantizes; None for another precision.
        stage_cache: Where what other exports need too is kept; None for nowhere.
    """

    model: ModelSpec
    target: TargetProfile
    checkpoint: Checkpoint
    output: Path
    components: tuple[str, ...] = ()
    parity_file: Path | None = None
    force: bool = False
    int8: Int8Request | None = None
    stage_cache: StageCache | None = None

    @property
    def prepared(self) -> ModelSpec:
        """The model as the target gets it: with fixed shapes, if it wants them."""
        return fixed.for_options(self.model, self.target.options)

    @property
    def chosen(self) -> tuple[ComponentSpec, ...]:
        """The components to export, in the model's order."""
        components = self.prepared.components
        return tuple(c for c in components if not self.components or c.name in self.components)


def with_checkpoint(request: ExportRequest, checkpoint: Checkpoint) -> ExportRequest:
    """The same request, from these weights."""
    return replace(request, checkpoint=checkpoint)
