"""The INT8 part of an export: photographs, recipes, and the samples of each component."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.config.parity import load_parity_images
from effsam_export.errors import UsageError
from effsam_export.util.files import sha256_of
from effsam_export.util.progress import stage

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.bundle.manifest import Exported
    from effsam_export.calibration.samples import Calibration
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.int8 import Quantization
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.util.progress import OnEvent


def calibrated(request: ExportRequest, scratch: Path, on_event: OnEvent) -> Calibration | None:
    """The photographs of an INT8 export, read and checked; None for another precision."""
    if request.int8 is None:
        return None
    import torch

    from effsam_export.calibration import images as calibration_images
    from effsam_export.calibration.samples import Calibration

    judges = [i.path for i in load_parity_images(request.parity_file)]
    with stage("calibrate", on_event) as running:
        found = calibration_images.load(request.int8.calibration, judges)
        count = len(found.arrays)
        running.detail = f"{found.recipe.num_samples} samples of {count} images"
    folder = scratch / "calibration"
    folder.mkdir()
    return Calibration(images=found, folder=folder, threads=torch.get_num_threads())


def quantization(
    request: ExportRequest,
    component: ComponentSpec,
    calibration: Calibration | None,
    before: list[Exported],
) -> Quantization | None:
    """What is done to one component of an INT8 export; None for another precision.

    A decoder is calibrated on embeddings of the encoder as deployed, so the encoder comes first.

    Raises:
        UsageError: A decoder is to be quantized, and its encoder is not exported with it.
    """
    if request.int8 is None or calibration is None:
        return None
    from effsam_export.spec.int8 import Quantization

    recipe = request.int8.plan.recipe(component.name, request.target.backend)
    if not recipe.quantizes:
        return Quantization(recipe=recipe, samples=calibration.folder)
    encoder = None
    if component.name == "decoder":
        made = next((e.artifact for e in before if e.artifact.component == "encoder"), None)
        if made is None:
            raise UsageError(
                "the decoder is calibrated on what the encoder gives",
                hint="export both: leave `--component` out",
            )
        encoder = partial(backends.load(request.target.backend).open_session, made)
    samples = calibration.samples(request.prepared, component, encoder)
    return Quantization(recipe=recipe, samples=samples)


def changes(quantized: Quantization) -> dict[str, str]:
    """What the weights of a component follow from that are changed before they become INT8."""
    samples = [sha256_of(path) for path in sorted(quantized.samples.glob("*.npz"))]
    return {"int8.recipe": repr(quantized.recipe), "int8.samples": " ".join(samples)}


def for_component(target: TargetProfile, quantized: Quantization | None) -> TargetProfile:
    """The target in the precision of one component: what INT8 leaves alone has its own."""
    if quantized is None or quantized.recipe.quantizes:
        return target
    return replace(target, precision="fp32" if quantized.recipe.scheme == "fp32" else "fp16")
