"""`effsam export`: export one model for one target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console
from effsam_export.cli.image_size import ImageSize, with_size
from effsam_export.cli.options import (
    AcceptLicense,
    BaseFile,
    BatchSize,
    Bf16,
    CacheDir,
    Calib,
    CheckpointFile,
    CheckpointKey,
    ComponentName,
    Fp16,
    Fp32,
    Int8,
    Int8Budget,
    Int8File,
    Int8Optimize,
    Json,
    KeepFile,
    LoraAdapter,
    LoraAlpha,
    ModelName,
    ModelOptions,
    NoCache,
    NumSamples,
    ParityFile,
    PrecisionName,
    Quiet,
    TargetName,
    TargetOptions,
    Verbose,
    chosen_precision,
    int8_request,
    to_model_options,
    to_target_options,
    with_fp16_recipe,
    with_search,
)

if TYPE_CHECKING:
    from effsam_export.parity.results import ParityReport
    from effsam_export.pipeline.plan import ExportPlan


def export(
    model: ModelName,
    target: TargetName,
    precision: PrecisionName = None,
    fp32: Fp32 = False,
    fp16: Fp16 = False,
    bf16: Bf16 = False,
    int8: Int8 = False,
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
    batch: BatchSize = "1",
    model_options: ModelOptions = None,
    target_options: TargetOptions = None,
    calib: Calib = None,
    num_samples: NumSamples = None,
    int8_recipe: Int8File = None,
    optimize: Int8Optimize = None,
    budget: Int8Budget = None,
    keep_fp32: KeepFile = None,
    parity: ParityFile = None,
    accept_license: AcceptLicense = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace an existing bundle.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the plan, the expected time, memory and size, and every error that the "
            "export would meet, with its exit code. Export and download nothing.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_cache: NoCache = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export a model for a target and check its masks.

    Writes a bundle if all masks agree with PyTorch's by the gates of the target. Otherwise writes
    no bundle and exits with code 1.
    """
    from effsam_export import models
    from effsam_export.bundle.read import read
    from effsam_export.config import targets as profiles
    from effsam_export.models import batching
    from effsam_export.pipeline import cached_export
    from effsam_export.pipeline import run as pipeline
    from effsam_export.pipeline.plan import bundle_name
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.weights.own_file import own_checkpoint

    terminal = console.Console(quiet=quiet, verbose=verbose)
    spec = models.configured(models.get(model), to_model_options(model_options))
    spec = batching.in_written_batch(with_size(spec, image_size), batch)
    profile = profiles.load_target(
        target,
        chosen_precision(precision, fp32=fp32, fp16=fp16, bf16=bf16, int8=int8),
        to_target_options(target_options),
    )
    spec = with_fp16_recipe(spec, profile.precision, keep_fp32)
    quantizing = int8_request(spec, profile, calib, num_samples, int8_recipe)
    quantizing = with_search(quantizing, profile, int8_recipe, optimize, budget, cache_dir)
    own = own_checkpoint(spec.weights, checkpoint, checkpoint_key, base, lora, lora_alpha)
    directory = output or Path(bundle_name(spec, profile, sized=image_size is not None))
    components = () if component == "all" else (component,)
    request = ExportRequest(
        model=spec,
        target=profile,
        output=directory,
        components=components,
        parity_file=parity,
        force=force,
        int8=quantizing,
    )
    if dry_run:
        from effsam_export.cli.dry_run import dry_run as show_plan

        show_plan(
            request,
            own,
            sized=image_size is not None,
            accept_license=accept_license,
            cache_dir=cache_dir,
            as_json=json,
            terminal=terminal,
        )
        return
    from effsam_export.pipeline.export_model import planned

    try:
        plan = planned(
            request,
            own,
            sized=image_size is not None,
            accept_license=accept_license,
            cache_dir=cache_dir,
            cache=not no_cache,
            on_transfer=terminal.on_transfer,
            on_note=lambda note: terminal.message(f"note: {note}"),
            on_warning=lambda warning: terminal.message(f"warning: {warning}"),
        )
    finally:
        terminal.close()
    for line in int8_lines(plan):
        terminal.message(line)
    what = f"{spec.name} {profile.name} {profile.precision}"
    try:
        report = cached_export.run(plan, terminal.on_event)
    except pipeline.ParityFailed as failure:
        _show_parity(failure.report, terminal)
        terminal.result(passed=False, what=f"{what}, {console.state(failure.report)}")
        raise
    finally:
        terminal.close()
    _show_parity(report, terminal)
    if json:
        document = {"bundle": str(directory), "passed": True, **pipeline.figures(report)}
        console.document({**document, "checkpoint": read(directory).manifest["checkpoint"]})
    else:
        console.data(str(directory))
    terminal.result(passed=True, what=f"{what}, {console.state(report)}")
    terminal.next(f"effsam run {directory} IMAGE --point X,Y --output overlay.png")


def _show_parity(report: ParityReport, terminal: console.Console) -> None:
    terminal.message("", *console.parity_table(report, sys.stderr).split("\n"), "")


def int8_lines(plan: ExportPlan) -> list[str]:
    """Return how each component is quantized as text, and warnings."""
    if plan.int8 is None:
        return []
    from effsam_export.pipeline.int8 import in_words

    found = in_words(plan.int8, [c.name for c in plan.components], plan.target.backend)
    lines = [f"int8 {name}: {what}" for name, what in found.items()]
    return lines + [f"warning: {w}" for w in plan.int8.calibration.warnings]
