"""A request, resolved and checked once: the input of every later stage of an export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export import backends, layouts
from effsam_export.bundle import staging
from effsam_export.config.parity import load_parity_images
from effsam_export.errors import UsageError
from effsam_export.models import batching, fixed
from effsam_export.spec import batches
from effsam_export.spec.sizes import text_of
from effsam_export.util.files import require_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from effsam_export.config.parity import ParityImage
    from effsam_export.parity.evaluation_set import EvaluationSet
    from effsam_export.pipeline.request import ExportRequest, Int8Request
    from effsam_export.pipeline.stage_cache import StageCache
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """Everything an export works with.

    Attributes:
        model: In the target's layout, and with fixed shapes, if the target needs them.
        dynamic_model: The same model before its shapes were fixed.
        components: The components to export, in the model's order.
        checkpoint: The weights; None until they are downloaded.
        output: Directory of the bundle.
        force: Replace a bundle at `output`.
        parity_images: Evaluation images and prompts, as the parity file lists them.
        custom_parity: The parity file is the user's own.
        int8: Calibration and recipes of an INT8 export; None for another precision.
        stage_cache: Cache of traces and conversions that exports share; None for no cache.
    """

    model: ModelSpec
    dynamic_model: ModelSpec
    target: TargetProfile
    components: tuple[ComponentSpec, ...]
    checkpoint: Checkpoint | None
    output: Path
    force: bool
    parity_images: tuple[ParityImage, ...]
    custom_parity: bool
    int8: Int8Request | None
    stage_cache: StageCache | None

    @property
    def weights(self) -> Checkpoint:
        """The checkpoint, of a plan that has one."""
        assert self.checkpoint is not None
        return self.checkpoint

    def evaluation_set(self, model: ModelSpec) -> EvaluationSet:
        """Return the evaluation images with the prompts that `model` supports."""
        from effsam_export.parity.evaluation_set import evaluation_set

        return evaluation_set(model, self.parity_images, custom=self.custom_parity)

    def with_masks(self, count: int) -> ExportPlan:
        """Return the plan for a checkpoint with another number of masks."""
        from effsam_export.weights.mask_tokens import with_mask_tokens

        model = with_mask_tokens(self.model, count)
        return replace(
            self,
            model=model,
            dynamic_model=with_mask_tokens(self.dynamic_model, count),
            components=tuple(model.component(c.name) for c in self.components),
        )

    def with_checkpoint(self, checkpoint: Checkpoint) -> ExportPlan:
        """Return the plan with its weights."""
        return replace(self, checkpoint=checkpoint)


def checks(request: ExportRequest) -> tuple[Callable[[], object], ...]:
    """Return the checks of a request that are quick, in their order; each raises `EffsamError`.

    Raises:
        ToolchainMissing: A package is not installed.
        OutputError: The output directory exists already, or cannot be written.
        UsageError: The target cannot have the model in its layout or with its batch, the model has
            no such component, the parity file has faults, or one of its images does not exist.
    """
    target = request.target
    quantizer = () if target.precision != "int8" else (target.backend,)
    return (
        partial(require_output, request.output, directory=True),
        partial(backends.require_lowering, target.backend),
        backends.require_tracing,
        *(partial(backends.require_quantizer, name) for name in quantizer),
        lambda: chosen_components(_fixed(request), request.components),
        partial(staging.check_output_free, request.output, force=request.force),
        partial(_evaluation_images, request),
    )


def resolve(request: ExportRequest) -> ExportPlan:
    """Check a request and load what it names, before any slow work.

    Raises:
        EffsamError: As `checks` says.
    """
    for check in checks(request):
        check()
    target = request.target
    backends.load(target.backend)
    model = _fixed(request)
    components = chosen_components(model, request.components)
    images = _evaluation_images(request)
    return ExportPlan(
        model=model,
        dynamic_model=_laid_out(request),
        target=target,
        components=components,
        checkpoint=request.checkpoint,
        output=request.output,
        force=request.force,
        parity_images=images,
        custom_parity=request.parity_file is not None,
        int8=request.int8,
        stage_cache=request.stage_cache,
    )


def _laid_out(request: ExportRequest) -> ModelSpec:
    return layouts.in_layout(request.model, request.target.layout)


def _fixed(request: ExportRequest) -> ModelSpec:
    fault = batching.target_fault(request.model.batch, request.target)
    if fault is not None:
        raise UsageError(fault[0], hint=fault[1])
    return fixed.for_options(_laid_out(request), request.target.options)


def _evaluation_images(request: ExportRequest) -> tuple[ParityImage, ...]:
    images = load_parity_images(request.parity_file)
    missing = [f"`{i.path}`" for i in images if not i.path.is_file()]
    if missing:
        raise UsageError(f"evaluation images do not exist: {', '.join(missing)}")
    return images


def chosen_components(model: ModelSpec, names: tuple[str, ...]) -> tuple[ComponentSpec, ...]:
    """Return the named components of a model, or all if none is named, in the model's order.

    Raises:
        UsageError: The model has no component of such a name.
    """
    known = {c.name for c in model.components}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"model `{model.name}` has no component `{unknown[0]}`",
            hint=f"it has {', '.join(sorted(known))}",
        )
    return tuple(c for c in model.components if not names or c.name in names)


def bundle_name(model: ModelSpec, target: TargetProfile, *, sized: bool) -> str:
    """Return the default name of a bundle: MODEL-TARGET-PRECISION.

    A size of input and a batch follow the model, as in `mobile-sam-512-b4-onnx-fp32`.

    Args:
        model: The model to export.
        target: The target of the export.
        sized: The user asks for the model's size of input.
    """
    size = f"-{text_of(model.preprocess.image_size)}" if sized else ""
    batch = "" if model.batch == 1 else f"-b{batches.text_of(model.batch)}"
    return f"{model.name}{size}{batch}-{target.name}-{target.precision}"
