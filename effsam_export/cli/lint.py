"""`effsam lint`: check a model against the limits of a target."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import console, tables
from effsam_export.cli.image_size import ImageSize, with_size, with_size_of
from effsam_export.cli.options import (
    BaseFile,
    Bf16,
    CacheDir,
    CheckpointFile,
    CheckpointKey,
    ComponentName,
    Fp16,
    Fp32,
    Int8,
    Json,
    LoraAdapter,
    LoraAlpha,
    ModelName,
    ModelOptions,
    PrecisionName,
    Quiet,
    TargetName,
    TargetOptions,
    Verbose,
    chosen_precision,
    to_model_options,
    to_target_options,
)
from effsam_export.errors import CheckFailed

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.lint.findings import Finding, LintReport
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint


def lint(
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
    ranges: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--ranges/--no-ranges",
            help="Measure value ranges on an image [default: for FP16, if the weights are cached].",
        ),
    ] = None,
    image_size: ImageSize = None,
    model_options: ModelOptions = None,
    target_options: TargetOptions = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
) -> None:
    """Check a model for what a target does not support.

    Reports operators, shapes and values. Faster than an export, and downloads nothing.
    """
    from effsam_export import backends, models
    from effsam_export.config import targets as profiles
    from effsam_export.weights.own_file import own_checkpoint

    terminal = console.Console(quiet=quiet, verbose=verbose)
    spec = models.configured(models.get(model), to_model_options(model_options))
    spec = with_size(spec, image_size)
    profile = profiles.load_target(
        target,
        chosen_precision(precision, fp32=fp32, fp16=fp16, bf16=bf16, int8=int8),
        to_target_options(target_options),
    )
    backends.require_tracing()
    own = own_checkpoint(spec.weights, checkpoint, checkpoint_key, base, lora, lora_alpha)
    from effsam_export.lint.check import LintRequest
    from effsam_export.lint.check import lint as library

    weights = _weights(spec, own, cache_dir)
    if weights is not None and image_size is None:
        spec = with_size_of(spec, weights, terminal)
    try:
        report = library(
            LintRequest(
                model=spec,
                target=profile,
                checkpoint=weights,
                components=() if component == "all" else (component,),
                ranges=ranges,
            ),
            terminal.on_event,
        )
    finally:
        terminal.close()
    what = f"{report.model} {report.target} {report.precision}"
    if report.not_measured:
        terminal.message(f"note: ranges were not measured: {report.not_measured}")
    if json:
        console.document(document(report))
    elif report.findings:
        console.data(table(report.findings))
    warnings = len(report.findings) - report.errors
    also = f", {counted(warnings, 'warning')}" if warnings else ""
    word = "warnings" if warnings and report.passed else ""
    terminal.result(passed=report.passed, what=f"{what}{also}", word=word)
    if not report.passed:
        raise CheckFailed(
            f"{counted(report.errors, 'error')} in `{report.model}` for target `{report.target}`",
            hint="the table above shows a fix for each",
        )
    terminal.next(f"effsam export {report.model} --target {target} --precision {report.precision}")


def counted(number: int, noun: str) -> str:
    """Return a number and its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def document(report: LintReport) -> dict[str, object]:
    """Return a report as a JSON object."""
    return {
        "model": report.model,
        "target": report.target,
        "precision": report.precision,
        "passed": report.passed,
        "components": list(report.components),
        "rules": list(report.rules),
        "measured_on": list(report.measured),
        "not_measured": report.not_measured or None,
        "findings": [asdict(f) for f in report.findings],
    }


def table(findings: tuple[Finding, ...]) -> str:
    """Return one table for each rule, with the reason above and the fix below it."""
    parts, width = [], tables.width_of(sys.stdout)
    for rule, severity in dict.fromkeys((f.rule, f.severity) for f in findings):
        rows = [f for f in findings if (f.rule, f.severity) == (rule, severity)]
        lines = console.table(
            ("  node", "module", "detail", "source"),
            [
                [f"  {f.component} {f.node}", f.module or "-", f.detail, f.source or "-"]
                for f in rows
            ],
        )
        why = tables.fill(f"{severity} {rule}: {rows[0].why}", width)
        rewrite = tables.fill(f"  rewrite: {rows[0].rewrite}", width, "  ")
        parts.append(f"{why}\n{lines}\n{rewrite}")
    return "\n\n".join(parts)


def _weights(spec: ModelSpec, own: Checkpoint | None, cache_dir: Path | None) -> Checkpoint | None:
    """Return the user's checkpoint, or the official one if it is in the cache; download nothing."""
    from effsam_export.weights import fetch

    if own is not None:
        return own
    if spec.weights is None:
        return None
    return fetch.cached(spec.weights, cache_dir=cache_dir or fetch.default_cache_dir())
