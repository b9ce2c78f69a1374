"""The INT8 part of an export: calibration images, and the recipe and samples of each component."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.config.int8_recipe import describe
from effsam_export.errors import UnknownNameError, UsageError
from effsam_export.pipeline.request import Int8Search
from effsam_export.spec.int8 import OPTIMIZE
from effsam_export.spec.sizes import text_of
from effsam_export.util.files import sha256_of
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from effsam_export.bundle.manifest import Exported
    from effsam_export.calibration.samples import Calibration
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.pipeline.request import Int8Request
    from effsam_export.pipeline.workspace import Workspace
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec, ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import TargetProfile


SEARCHED = ("encoder", "segmenter")
"""Components whose recipe can be searched."""
SEARCHES = "int8"
"""Folder of the cache that keeps searches."""
MINUTE_S = 60
MAX_MINUTES = 10_000


def load_calibration(plan: ExportPlan, space: Workspace) -> Calibration | None:
    """Load and check the calibration images of an INT8 export; None for another precision.

    Raises:
        UsageError: An image is unreadable, a duplicate, or an evaluation image.
    """
    if plan.int8 is None:
        return None
    import torch

    from effsam_export.calibration import images as calibration_images
    from effsam_export.calibration.samples import Calibration

    evaluation = [i.path for i in plan.parity_images]
    with stage("calibrate", space.on_event) as running:
        images = calibration_images.load(plan.int8.calibration, evaluation)
        for note in images.notes:
            running.note(note)
        count = len(images.arrays)
        running.detail = f"{images.recipe.num_samples} samples of {count} images"
    folder = space.scratch / "calibration"
    folder.mkdir()
    return Calibration(images=images, folder=folder, threads=torch.get_num_threads())


def quantization(
    plan: ExportPlan,
    component: ComponentSpec,
    calibration: Calibration | None,
    exported: list[Exported],
) -> Quantization | None:
    """Return the recipe of one component with its samples; None for another precision than INT8.

    A decoder is calibrated on embeddings of the exported encoder, so the encoder comes first.

    Args:
        plan: The export.
        component: The component.
        calibration: The calibration images.
        exported: The components that are exported already.

    Raises:
        UsageError: A decoder is to be quantized without its encoder in the export.
    """
    if plan.int8 is None or calibration is None:
        return None
    from effsam_export.spec.int8 import Quantization

    recipe = plan.int8.plan.recipe(component.name, plan.target.backend)
    if not recipe.quantizes:
        return Quantization(recipe=recipe, samples=calibration.folder)
    open_encoder = None
    if component.name == "decoder":
        encoder = next((e.artifact for e in exported if e.artifact.component == "encoder"), None)
        if encoder is None:
            raise UsageError(
                "the decoder is calibrated on embeddings of the exported encoder",
                hint="export both: leave `--component` out",
            )
        open_encoder = partial(backends.load(plan.target.backend).open_session, encoder)
    samples = calibration.samples(plan.model, component, open_encoder)
    return Quantization(recipe=recipe, samples=samples)


def unmeasured(plan: Int8Plan, model: ModelSpec, checkpoint: Checkpoint) -> list[str]:
    """Return sentences on why the measured accuracy of a recipe does not hold for an export."""
    if plan.search is not None:
        return []
    if not plan.measured:
        return ["INT8 accuracy of this model's trained weights is unmeasured"]
    found = []
    size = text_of(model.preprocess.image_size)
    if plan.image_size not in ("", size):
        found.append(f"INT8 accuracy was measured at {plan.image_size} pixels, not at {size}")
    if plan.checkpoint not in ("", checkpoint.sha256):
        found.append(
            f"INT8 accuracy was measured with other weights than `{checkpoint.path.name}`: "
            f"sha256 {plan.checkpoint[:12]}"
        )
    return found


def search_of(optimize: str | None, budget: float | None, cache_dir: Path | None) -> Int8Search:
    """Return the search for an INT8 recipe that an export starts with.

    Args:
        optimize: What it prefers; None for `size`, and for no search where a measured recipe
            ships.
        budget: Its time in minutes; None for the default.
        cache_dir: Folder of downloads; None for the user's.

    Raises:
        UsageError: A value is wrong.
    """
    from effsam_export.weights.fetch import default_cache_dir

    chosen = next((o for o in OPTIMIZE if o == (optimize or OPTIMIZE[0])), None)
    if chosen is None:
        raise UnknownNameError("value of --optimize", optimize or "", OPTIMIZE)
    if budget is not None and not 0 <= budget <= MAX_MINUTES:
        raise UsageError(
            f"a search cannot take {budget:g} minutes", hint=f"want 0 to {MAX_MINUTES} minutes"
        )
    search = Int8Search(
        optimize=chosen,
        folder=(cache_dir or default_cache_dir()) / SEARCHES,
        always=optimize is not None,
    )
    return search if budget is None else replace(search, budget_s=budget * MINUTE_S)


def settled(request: Int8Request, model: ModelSpec, sha256: str | None) -> Int8Request:
    """Return the request without its search if its recipe was measured on these very weights.

    Args:
        request: The INT8 part of an export.
        model: The model in the size of its input.
        sha256: SHA-256 of the checkpoint; None if it is not known.
    """
    plan, search = request.plan, request.search
    same = plan.checkpoint == sha256 and plan.image_size == text_of(model.preprocess.image_size)
    if search is None or search.always or not (plan.measured and plan.checkpoint and same):
        return request
    return replace(request, search=None)


def in_words(request: Int8Request, components: Iterable[str], backend: str) -> dict[str, str]:
    """Return how each component is quantized, in one line each.

    Args:
        request: The INT8 part of an export, `settled`.
        components: Names of the components.
        backend: The target's backend.
    """
    words = {name: describe(request.plan.recipe(name, backend)) for name in components}
    if request.search is None:
        return words
    minutes = request.search.budget_s / MINUTE_S
    sentence = f"a search for {request.search.optimize} finds its recipe, {minutes:g} min at most"
    return {name: sentence if name in SEARCHED else text for name, text in words.items()}


def weight_changes(quantization: Quantization) -> dict[str, str]:
    """Return what weights depend on that are changed before they are quantized, by name."""
    samples = [sha256_of(path) for path in sorted(quantization.samples.glob("*.npz"))]
    return {"int8.recipe": repr(quantization.recipe), "int8.samples": " ".join(samples)}


def for_component(target: TargetProfile, quantization: Quantization | None) -> TargetProfile:
    """Return the target in the precision of one component: INT8, or what its recipe keeps."""
    if quantization is None or quantization.recipe.quantizes:
        return target
    return replace(target, precision="fp32" if quantization.recipe.scheme == "fp32" else "fp16")
