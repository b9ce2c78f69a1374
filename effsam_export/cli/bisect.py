"""`effsam bisect`: which modules INT8 or FP16 has to leave alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export import console
from effsam_export.cli.fetch import acquire, consent
from effsam_export.cli.options import (
    AcceptLicense,
    CacheDir,
    Calib,
    CheckpointFile,
    Int8File,
    Json,
    NumSamples,
    ParityFile,
    PrecisionName,
    Quiet,
    Settings,
    int8_request,
    to_settings,
)
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from effsam_export.bisect import Outcome
    from effsam_export.bisect_fp16 import HalfBench
    from effsam_export.bisect_judge import Bench
    from effsam_export.pipeline import ExportRequest
    from effsam_export.quantize.plan import Int8Recipe
    from effsam_export.quantize.recipes import Int8Plan
    from effsam_export.spec import ModelSpec

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a search starts from: a model's name, or a bundle that is to be made better.

    Attributes:
        sha256: Of the weights a bundle was made from; empty where there is none.
        plan: What a bundle quantized.
    """

    spec: ModelSpec
    target: str
    precision: str
    sha256: str = ""
    plan: Int8Plan | None = None


def bisect(
    source: Annotated[
        str, typer.Argument(metavar="MODEL|BUNDLE", help="A name, or a bundle to make better.")
    ],
    target: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--target", "-t", help="A target [default: the bundle's]."),
    ] = None,
    precision: PrecisionName = None,
    min_iou: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--min-iou", help="Mask IoU that every prompt has to reach [default: the target's]."
        ),
    ] = None,
    mean_iou: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--mean-iou", help="Least mean over all prompts [default: the target's]."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The recipe [default: MODEL-TARGET-PRECISION.toml]."),
    ] = None,
    checkpoint: CheckpointFile = None,
    settings: Settings = None,
    calib: Calib = None,
    num_samples: NumSamples = None,
    int8_recipe: Int8File = None,
    parity: ParityFile = None,
    accept_license: AcceptLicense = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Find the fewest modules to keep out of INT8 or FP16 so that masks hold; write the recipe.

    The search runs in ONNX Runtime, whatever the target; for INT8 the target's own quantizer has
    the last word. Give the answer to `effsam export` with `--int8-recipe FILE` or `--keep-fp32
    FILE`. Stop it at any time: run again, it goes on.
    """
    import tempfile

    from effsam_export import bisect as searching
    from effsam_export import pipeline, profiles
    from effsam_export.files import write_whole
    from effsam_export.spec import Checkpoint

    talk = console.Console(quiet=quiet)
    start = started(source, target, precision, settings)
    spec = start.spec
    profile = profiles.load_target(start.target, start.precision)
    place = output or Path(f"{spec.name}-{profile.name}-{profile.precision}.toml")
    quantizing = int8_request(spec, profile, calib, num_samples, int8_recipe)
    if quantizing is not None and start.plan is not None and int8_recipe is None:
        quantizing = replace(quantizing, plan=start.plan)
    request = pipeline.ExportRequest(
        model=spec,
        target=profile,
        checkpoint=Checkpoint(path=checkpoint or Path(), sha256="", official=False),
        output=place.with_suffix(".bundle"),
        parity_file=parity,
        force=True,
        int8=quantizing,
    )
    pipeline.check_request(request)
    consent(spec, accept_license, cache_dir)
    found = acquire(spec, checkpoint, cache_dir, talk)
    if start.sha256 and found.sha256 != start.sha256:
        raise UsageError(
            f"the bundle was made from weights {start.sha256[:12]}, these are {found.sha256[:12]}",
            hint="give the same with --checkpoint",
        )
    request = pipeline.with_checkpoint(request, found)
    gate = searching.Gate(
        least=profile.gates.mask_iou if min_iou is None else min_iou,
        mean=profile.gates.mean_iou if mean_iou is None else mean_iou,
    )
    half = profile.precision == "fp16"
    with tempfile.TemporaryDirectory(prefix="effsam-") as name:
        bench = open_bench(request, Path(name), talk)

        def told(count: int, expected: int, seconds: float) -> None:
            left = max(0, expected - count) * seconds / 60
            talk.say(
                f"  judgement {count} of about {max(count, expected)}, {seconds:.0f} s, "
                f"{left:.0f} min left"
            )

        notebook = searching.Notebook(
            place.with_name(f"{place.name}.search.json"),
            question(request),
            bench.judge,
            told,
            bench.deployed,
        )
        outcome = searching.search(
            bench.layers,
            gate,
            notebook,
            weighted=bench.weighted,
            negligible=searching.NEGLIGIBLE / 10 if half else searching.NEGLIGIBLE,
        )
        text = written(request, bench, outcome)
    write_whole(place, text.encode())
    if json:
        console.document({"recipe": str(place), **document(outcome)})
    else:
        rows = [
            [c.layer, shown(c.kept, half=half), f"{c.sensitivity:.4f}"] for c in outcome.choices
        ]
        console.data(console.table(("layer", "kept as", "costs alone"), rows))
    talk.say(summary(outcome, half=half))
    use = f"--fp16 --keep-fp32 {place}" if half else f"--int8 --int8-recipe {place}"
    talk.next(f"effsam export {spec.name} --target {start.target} {use}")


def started(
    source: str, target: str | None, precision: str | None, settings: list[str] | None
) -> Start:
    """What to start from, by a model's name or a bundle.

    Raises:
        UsageError: No target was named, or the precision has nothing to search for.
        BundleError: The bundle cannot be read.
    """
    from effsam_export import models

    if (Path(source) / MANIFEST).is_file():
        start = of_bundle(Path(source))
        start = replace(start, target=target or start.target)
        start = replace(start, precision=precision or start.precision)
    else:
        spec = models.configured(models.get(source), to_settings(settings))
        if target is None:
            raise UsageError(
                "for which target?", hint="add --target NAME; `effsam targets` lists them"
            )
        start = Start(spec=spec, target=target, precision=precision or "int8")
    if start.precision not in ("int8", "fp16"):
        raise UsageError(
            f"nothing has to be kept out of {start.precision}", hint="--precision int8 or fp16"
        )
    return start


def of_bundle(path: Path) -> Start:
    """The model, target, precision, weights and recipes of a bundle."""
    from effsam_export import models
    from effsam_export.bundle import int8
    from effsam_export.bundle.read import read

    manifest = read(path).manifest
    entry = manifest["model"]
    return Start(
        spec=models.configured(models.get(entry["name"]), entry["options"]),
        target=manifest["target"]["name"],
        precision=manifest["precision"]["asked"],
        sha256=manifest["checkpoint"]["sha256"],
        plan=int8.plan(manifest["int8"]) if "int8" in manifest else None,
    )


def open_bench(request: ExportRequest, scratch: Path, talk: console.Console) -> Bench | HalfBench:
    """The judge for the precision that is asked."""
    if request.int8 is None:
        from effsam_export.bisect_fp16 import HalfBench

        return HalfBench(request, scratch, talk.observe)
    from effsam_export.bisect_judge import Bench

    return Bench(request, scratch, talk.observe)


def question(request: ExportRequest) -> str:
    """Everything a judgement depends on besides the layers that are kept, as a hash."""
    import hashlib

    from effsam_export import __version__, installed, profiles
    from effsam_export.build import keys
    from effsam_export.calibration.recipe import hashes

    photographs = profiles.load_parity_images(request.parity_file)
    backend = request.target.backend
    parts = [
        __version__,
        # A last digit of another version may decide on a mask.
        keys.code(),
        *(
            f"{t} {installed.version_of(t)}"
            for t in keys.tools_of(backend, request.target.precision)
        ),
        request.model.name,
        backend,
        repr(sorted(request.model.options.items())),
        request.checkpoint.sha256,
        repr([(p.cases, hashes([p.path])) for p in photographs]),
    ]
    if request.int8 is not None:
        parts += [
            repr(sorted(request.int8.plan.recipes.items())),
            # Not where the photographs lie: their contents follow.
            repr(replace(request.int8.calibration, images=())),
            repr(sorted(hashes(request.int8.calibration.images).values())),
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def written(request: ExportRequest, bench: Bench | HalfBench, outcome: Outcome) -> str:
    """The answer as a file that an export takes."""
    from effsam_export import precision_file
    from effsam_export.quantize import recipes

    if request.int8 is None:
        from effsam_export.bisect_fp16 import HalfBench

        assert isinstance(bench, HalfBench)
        entries = [
            replace(bench.entry(c.layer), reason=reason(c.sensitivity, "in FP16"))
            for c in outcome.choices
        ]
        return precision_file.to_toml(summary(outcome, half=True), entries)
    plan = request.int8.plan
    found: dict[str, Int8Recipe] = {
        c.name: with_choices(plan.recipe(c.name, request.target.backend), c.name, outcome)
        for c in request.model.components
    }
    return recipes.to_toml(summary(outcome, half=False), found)


def with_choices(recipe: Int8Recipe, component: str, outcome: Outcome) -> Int8Recipe:
    """A recipe with the choices of a search for its component, each with its reason."""
    from effsam_export.bisect import SEPARATOR
    from effsam_export.quantize.plan import Exception8

    more = []
    for choice in outcome.choices:
        owner, _, path = choice.layer.partition(SEPARATOR)
        if owner == component:
            more.append(
                Exception8(
                    modules=(path,),
                    treatment=choice.kept,
                    reason=reason(choice.sensitivity, "quantized"),
                    source="effsam bisect",
                    alone=True,
                )
            )
    return replace(recipe, exceptions=(*more, *recipe.exceptions))


def reason(sensitivity: float, how: str) -> str:
    """Why a layer is kept."""
    return f"{how} alone it costs {sensitivity:.4f} of the mean mask IoU"


def shown(kept: str, *, half: bool) -> str:
    """What a layer is kept as, for a person."""
    return "fp32" if half else kept


def summary(outcome: Outcome, *, half: bool) -> str:
    """The answer in a line."""
    floating = sum(c.kept == "float" for c in outcome.choices)
    weights = len(outcome.choices) - floating
    before, after = outcome.before, outcome.after
    kept = (
        f"{floating} layers in FP32"
        if half
        else (f"{floating} layers floating and {weights} with INT8 weights only")
    )
    own = outcome.deployed
    return (
        f"{kept}, of {outcome.layers}: "
        f"least mask IoU {before.least:.4f} to {after.least:.4f}, mean {before.mean:.4f} to "
        f"{after.mean:.4f} by ONNX Runtime, in {outcome.evaluations} judgements"
        + (f"; in the target itself {own.least:.4f} and {own.mean:.4f}" if own else "")
    )


def document(outcome: Outcome) -> dict[str, object]:
    """The answer as JSON."""
    return asdict(outcome)
