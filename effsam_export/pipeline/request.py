"""What the caller of an export asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.config.calibration import CalibrationRecipe
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.spec.int8 import Optimize
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Int8Search:
    """A search for an INT8 recipe, which an export starts with.

    Attributes:
        optimize: What the search prefers among the recipes that meet its aim.
        budget_s: Time of the search, in seconds.
        folder: Folder that keeps searches for later exports; None to keep none.
        always: Search even if the recipe was measured on these weights at this size.
    """

    optimize: Optimize = "size"
    budget_s: float = 600.0
    folder: Path | None = None
    always: bool = False


@dataclass(frozen=True, kw_only=True)
class Int8Request:
    """The calibration images of an INT8 export, and the recipes by which it quantizes.

    Attributes:
        search: The search that replaces the recipes; None to export by them.
    """

    calibration: CalibrationRecipe
    plan: Int8Plan
    search: Int8Search | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """A request for an export. `pipeline.plan.resolve` checks it and loads what it names.

    Attributes:
        checkpoint: The weights; None for a request that is checked before a download.
        output: Directory of the bundle.
        components: Names of components; empty for all of the model's.
        parity_file: TOML file with a user's evaluation images and prompts; None for those that
            ship.
        force: Replace a bundle that is at `output`.
        int8: Calibration and recipes of an INT8 export; None for another precision.
        stage_cache: Cache of traces and conversions that exports share; None for no cache.
    """

    model: ModelSpec
    target: TargetProfile
    checkpoint: Checkpoint | None = None
    output: Path
    components: tuple[str, ...] = ()
    parity_file: Path | None = None
    force: bool = False
    int8: Int8Request | None = None
    stage_cache: StageCache | None = None

    @property
    def weights(self) -> Checkpoint:
        """The checkpoint, of a request that has one."""
        assert self.checkpoint is not None
        return self.checkpoint

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the components to export, in the model's order."""
        names = (c.name for c in self.model.components)
        return tuple(n for n in names if not self.components or n in self.components)
