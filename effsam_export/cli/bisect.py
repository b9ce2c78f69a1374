"""`effsam bisect`: find the layers to exclude from INT8 or FP16."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import completion, console
from effsam_export.cli.fetch import acquire, consent
from effsam_export.cli.image_size import ImageSize, with_size, with_size_of
from effsam_export.cli.model_name import check_model
from effsam_export.cli.options import (
    AcceptLicense,
    BaseFile,
    CacheDir,
    Calib,
    CheckpointFile,
    CheckpointKey,
    Int8File,
    Json,
    LoraAdapter,
    LoraAlpha,
    ModelOptions,
    NumSamples,
    ParityFile,
    Quiet,
    Verbose,
    int8_request,
    to_model_options,
)
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from effsam_export.bisect.fp16 import Fp16Evaluator
    from effsam_export.bisect.int8 import Int8Evaluator
    from effsam_export.bisect.search import Outcome
    from effsam_export.config.int8_recipe import Int8Plan
    from effsam_export.pipeline.plan import ExportPlan
    from effsam_export.spec.model import ModelSpec

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a search, from a model's name or from a bundle.

    Attributes:
        sha256: SHA-256 of the bundle's checkpoint; empty for a model's name.
        plan: The INT8 recipes of the bundle, or None.
    """

    spec: ModelSpec
    target: str
    precision: str
    sha256: str = ""
    plan: Int8Plan | None = None


def bisect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|BUNDLE",
            help="A model name from `effsam list`, or the directory of a bundle to improve.",
            callback=check_model,
            autocompletion=completion.model_names,
        ),
    ],
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--target",
            "-t",
            help="A target name from `effsam targets` [default: the bundle's].",
            autocompletion=completion.target_names,
        ),
    ] = None,
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--precision",
            "-p",
            help="int8 or fp16 [default: the bundle's, for a model int8].",
            autocompletion=completion.precisions,
        ),
    ] = None,
    min_iou: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--min-iou",
            min=0,
            max=1,
            help="Minimum mask IoU of every prompt [default: the target's gate].",
        ),
    ] = None,
    mean_iou: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--mean-iou",
            min=0,
            max=1,
            help="Minimum mean mask IoU of all prompts [default: the target's gate].",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", help="Recipe file to write [default: MODEL-TARGET-PRECISION.toml]."
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    base: BaseFile = None,
    lora: LoraAdapter = None,
    lora_alpha: LoraAlpha = None,
    image_size: ImageSize = None,
    model_options: ModelOptions = None,
    calib: Calib = None,
    num_samples: NumSamples = None,
    int8_recipe: Int8File = None,
    parity: ParityFile = None,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    cache_dir: CacheDir = None,
) -> None:
    """Find the fewest layers to exclude from INT8 or FP16.

    Excludes them so that all masks meet the gates, and writes a recipe for `effsam export` with
    `--int8-recipe FILE` or `--keep-fp32 FILE`. The search runs in ONNX Runtime; for INT8, the
    target's own quantizer checks the result. An interrupted search continues when the same command
    runs again.
    """
    from effsam_export.bisect import search as searching
    from effsam_export.bisect.evaluations import EvaluationLog
    from effsam_export.bisect.recipe import describe, search_key, summary, to_toml
    from effsam_export.config import targets as profiles
    from effsam_export.pipeline.plan import resolve
    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.util.files import require_output, write_whole
    from effsam_export.util.owned import temporary_directory
    from effsam_export.weights.own_file import own_checkpoint

    terminal = console.Console(quiet=quiet, verbose=verbose)
    start = to_start(source, target, precision, model_options)
    if start.sha256 and image_size is not None:
        raise UsageError(
            "--image-size is for a model; a bundle has its own", hint="leave out --image-size"
        )
    spec = with_size(start.spec, image_size)
    profile = profiles.load_target(start.target, start.precision)
    path = output or Path(f"{spec.name}-{profile.name}-{profile.precision}.toml")
    require_output(path)
    quantizing = int8_request(spec, profile, calib, num_samples, int8_recipe)
    if quantizing is not None and start.plan is not None and int8_recipe is None:
        quantizing = replace(quantizing, plan=start.plan)
    request = ExportRequest(
        model=spec,
        target=profile,
        output=path.with_suffix(".bundle"),
        parity_file=parity,
        force=True,
        int8=quantizing,
    )
    plan = resolve(request)
    consent(spec, accept_license, cache_dir)
    own = own_checkpoint(spec.weights, checkpoint, checkpoint_key, base, lora, lora_alpha)
    weights = acquire(spec, own, cache_dir, terminal)
    if start.sha256 and weights.sha256 != start.sha256:
        raise UsageError(
            f"the bundle's checkpoint is {start.sha256[:12]}, this one is {weights.sha256[:12]}",
            hint="give the bundle's checkpoint with --checkpoint FILE",
        )
    if not start.sha256 and image_size is None:
        plan = resolve(replace(request, model=with_size_of(spec, weights, terminal)))
    plan = plan.with_checkpoint(weights)
    gate = searching.Gate(
        min_iou=profile.gates.mask_iou if min_iou is None else min_iou,
        mean_iou=profile.gates.mean_iou if mean_iou is None else mean_iou,
    )
    half = profile.precision == "fp16"
    with temporary_directory() as scratch:
        evaluator = open_evaluator(plan, scratch, terminal)

        def on_progress(count: int, expected: int, seconds: float) -> None:
            left = max(0, expected - count) * seconds / 60
            terminal.message(
                f"  evaluation {count} of about {max(count, expected)}, {seconds:.0f} s, "
                f"{left:.0f} min left"
            )

        log = EvaluationLog(
            path.with_name(f"{path.name}.search.json"),
            search_key(plan),
            evaluator.evaluate,
            on_progress,
            evaluator.evaluate_target,
        )
        outcome = searching.search(
            evaluator.layers,
            gate,
            log,
            weighted=evaluator.weighted,
            negligible=searching.NEGLIGIBLE / 10 if half else searching.NEGLIGIBLE,
        )
        text = to_toml(plan, evaluator, outcome)
    write_whole(path, text.encode())
    if json:
        console.document({"recipe": str(path), **document(outcome)})
    else:
        rows = [
            [c.layer, describe(c.treatment, half=half), f"{c.sensitivity:.4f}"]
            for c in outcome.choices
        ]
        console.data(console.table(("layer", "precision", "sensitivity"), rows))
    terminal.message(summary(outcome, half=half))
    use = f"--fp16 --keep-fp32 {path}" if half else f"--int8 --int8-recipe {path}"
    terminal.next(f"effsam export {spec.name} --target {start.target} {use}")


def to_start(
    source: str, target: str | None, precision: str | None, model_options: list[str] | None
) -> Start:
    """Return the start of a search from a model's name or a bundle.

    Raises:
        UsageError: The target is missing, or the precision is FP32.
        BundleError: The bundle cannot be read.
    """
    from effsam_export import models

    if (Path(source) / MANIFEST).is_file():
        start = from_bundle(Path(source))
        start = replace(start, target=target or start.target)
        start = replace(start, precision=precision or start.precision)
    else:
        spec = models.configured(models.get(source), to_model_options(model_options))
        if target is None:
            raise UsageError(
                "--target is missing", hint="add --target NAME; `effsam targets` lists the names"
            )
        start = Start(spec=spec, target=target, precision=precision or "int8")
    if start.precision not in ("int8", "fp16"):
        raise UsageError(
            f"bisect does not apply to {start.precision}", hint="use --precision int8 or fp16"
        )
    return start


def from_bundle(path: Path) -> Start:
    """Return model, target, precision, checkpoint and INT8 recipes of a bundle."""
    from effsam_export import models
    from effsam_export.bundle import int8
    from effsam_export.bundle.read import read
    from effsam_export.models import image_sizes

    manifest = read(path).manifest
    entry = manifest["model"]
    model = models.configured(models.get(entry["name"]), entry["options"])
    return Start(
        spec=image_sizes.of_manifest(model, manifest),
        target=manifest["target"]["name"],
        precision=manifest["precision"]["requested"],
        sha256=manifest["checkpoint"]["sha256"],
        plan=int8.plan(manifest["int8"]) if "int8" in manifest else None,
    )


def open_evaluator(
    plan: ExportPlan, scratch: Path, terminal: console.Console
) -> Int8Evaluator | Fp16Evaluator:
    """Return the evaluator for the requested precision."""
    if plan.int8 is None:
        from effsam_export.bisect.fp16 import Fp16Evaluator

        return Fp16Evaluator(plan, scratch, terminal.on_event)
    from effsam_export.bisect.int8 import Int8Evaluator

    return Int8Evaluator(plan, scratch, terminal.on_event)


def document(outcome: Outcome) -> dict[str, object]:
    """Return the result of a search as a JSON object."""
    return asdict(outcome)
