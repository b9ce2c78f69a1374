"""`effsam export`: export one model for one target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.image_size import ImageSize, with_size
from effsam_export.cli.options import (
    AcceptLicense,
    BaseFile,
    CacheDir,
    Calib,
    CheckpointFile,
    CheckpointKey,
    ComponentName,
    Fp16,
    Int8File,
    Json,
    KeepFile,
    LoraAdapter,
    LoraAlpha,
    ModelName,
    ModelOptions,
    NumSamples,
    ParityFile,
    PrecisionName,
    Quiet,
    TargetName,
    TargetOptions,
    chosen_precision,
    int8_request,
    to_model_options,
    to_target_options,
    with_fp16_recipe,
)

if TYPE_CHECKING:
    from effsam_export.pipeline.request import ExportRequest, Int8Request
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import TargetProfile


def export(
    model: ModelName,
    target: TargetName,
    precision: PrecisionName = None,
    fp16: Fp16 = False,
    int8: Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")] = False,
    component: ComponentName = "all",
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    base: BaseFile = None,
    lora: LoraAdapter = None,
    lora_alpha: LoraAlpha = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Output directory [default: MODEL-TARGET-PRECISION]."),
    ] = None,
    image_size: ImageSize = None,
    model_options: ModelOptions = None,
    target_options: TargetOptions = None,
    calib: Calib = None,
    num_samples: NumSamples = None,
    int8_recipe: Int8File = None,
    keep_fp32: KeepFile = None,
    parity: ParityFile = None,
    accept_license: AcceptLicense = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace an existing bundle.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the plan: options, gates, components. Export nothing."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export a model for a target and check its masks.

    Writes a bundle if all masks agree with PyTorch's by the gates of the target. Otherwise writes
    no bundle and exits with code 1.
    """
    from effsam_export import models
    from effsam_export.bundle.read import read
    from effsam_export.config import targets as profiles
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.sizes import text_of
    from effsam_export.weights.own_file import own_checkpoint

    terminal = console.Console(quiet=quiet)
    spec = models.configured(models.get(model), to_model_options(model_options))
    spec = with_size(spec, image_size)
    profile = profiles.load_target(
        target, chosen_precision(precision, fp16=fp16, int8=int8), to_target_options(target_options)
    )
    spec = with_fp16_recipe(spec, profile.precision, keep_fp32)
    quantizing = int8_request(spec, profile, calib, num_samples, int8_recipe)
    own = own_checkpoint(spec.weights, checkpoint, checkpoint_key, base, lora, lora_alpha)
    name = spec.name if image_size is None else f"{spec.name}-{text_of(spec.preprocess.image_size)}"
    directory = output or Path(f"{name}-{profile.name}-{profile.precision}")
    components = () if component == "all" else (component,)
    if dry_run:
        check_request(spec, profile, directory, components, parity)
        _show_plan(spec, profile, directory, components, quantizing, as_json=json)
        return
    from effsam_export.pipeline.export_model import planned

    request = ExportRequest(
        model=spec,
        target=profile,
        output=directory,
        components=components,
        parity_file=parity,
        force=force,
        int8=quantizing,
    )
    for line in int8_lines(request):
        terminal.message(line)
    try:
        plan = planned(
            request,
            own,
            sized=image_size is not None,
            accept_license=accept_license,
            cache_dir=cache_dir,
            on_transfer=terminal.on_transfer,
            on_note=lambda note: terminal.message(f"note: {note}"),
            on_warning=lambda warning: terminal.message(f"warning: {warning}"),
        )
    finally:
        terminal.close()
    what = f"{spec.name} {profile.name} {profile.precision}"
    try:
        report = pipeline.run(plan, terminal.on_event)
    except pipeline.ParityFailed as failure:
        terminal.message("", *console.parity_table(failure.report).split("\n"), "")
        terminal.result(passed=False, what=f"{what}, {console.state(failure.report)}")
        raise
    finally:
        terminal.close()
    terminal.message("", *console.parity_table(report).split("\n"), "")
    if json:
        document = {"bundle": str(directory), "passed": True, **pipeline.figures(report)}
        console.document({**document, "checkpoint": read(directory).manifest["checkpoint"]})
    else:
        console.data(str(directory))
    terminal.result(passed=True, what=f"{what}, {console.state(report)}")
    terminal.next(f"effsam run {directory} IMAGE --point X,Y --output overlay.png")


def check_request(
    spec: ModelSpec,
    profile: TargetProfile,
    directory: Path,
    components: tuple[str, ...],
    parity: Path | None,
) -> None:
    """Check what an export would refuse and a dry run can know.

    Raises:
        OutputError: The output cannot be written. A bundle that exists can: with `--force`.
        UsageError: There is no such component, or the parity file or a target option is wrong.
    """
    from effsam_export.bundle import staging
    from effsam_export.config.parity import load_parity_images
    from effsam_export.models import fixed
    from effsam_export.pipeline.plan import chosen_components
    from effsam_export.util.files import require_output

    require_output(directory, directory=True)
    staging.check_output_free(directory, force=True)
    chosen_components(fixed.for_options(spec, profile.options), components)
    load_parity_images(parity)


def int8_lines(request: ExportRequest) -> list[str]:
    """Return the INT8 recipe of each component as text, and warnings."""
    if request.int8 is None:
        return []
    words = in_words(request.int8, request.target, request.component_names)
    lines = [f"int8 {name}: {what}" for name, what in words.items()]
    return lines + [f"warning: {w}" for w in request.int8.calibration.warnings]


def in_words(
    quantizing: Int8Request, profile: TargetProfile, names: tuple[str, ...]
) -> dict[str, str]:
    """Return the INT8 recipe of each component in one line."""
    from effsam_export.config import int8_recipe as recipes

    return {n: recipes.describe(quantizing.plan.recipe(n, profile.backend)) for n in names}


def _show_plan(
    spec: ModelSpec,
    profile: TargetProfile,
    directory: Path,
    components: tuple[str, ...],
    quantizing: Int8Request | None,
    *,
    as_json: bool,
) -> None:
    """Print what an export would do."""
    from effsam_export.spec.sizes import text_of

    names = components or tuple(c.name for c in spec.components)
    plan = {
        "model": spec.name,
        "model_options": dict(spec.options),
        "image_size": text_of(spec.preprocess.image_size),
        "target": profile.name,
        "backend": profile.backend,
        "precision": profile.precision,
        "opset": profile.opset,
        "target_options": dict(profile.options),
        "gates": {
            "mask_iou": profile.gates.mask_iou,
            "score_error": profile.gates.score_error,
            "cosine": profile.gates.cosine,
            "mean_iou": profile.gates.mean_iou,
        },
        **({"int8": in_words(quantizing, profile, names)} if quantizing else {}),
        "components": list(names),
        "output": str(directory),
    }
    if as_json:
        console.document({"plan": plan})
    else:
        rows = []
        for key, value in plan.items():
            if isinstance(value, dict):
                rows += [[f"{key}.{k}", str(v)] for k, v in value.items()]
            else:
                rows.append([key, " ".join(value) if isinstance(value, list) else str(value)])
        console.data(console.table(("what", "value"), rows))
