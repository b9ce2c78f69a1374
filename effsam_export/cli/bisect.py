"""`effsam bisect`: which modules INT8 has to leave alone."""

from __future__ import annotations

from dataclasses import asdict, replace
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
    ModelName,
    NumSamples,
    ParityFile,
    Quiet,
    Settings,
    TargetName,
    int8_request,
    to_settings,
)

if TYPE_CHECKING:
    from effsam_export.bisect import Outcome
    from effsam_export.pipeline import ExportRequest
    from effsam_export.quantize.plan import Int8Recipe


def bisect(
    model: ModelName,
    target: TargetName,
    min_iou: Annotated[
        float, typer.Option("--min-iou", help="Least mask IoU that every prompt has to reach.")
    ] = 0.9,
    mean_iou: Annotated[
        float, typer.Option("--mean-iou", help="Least mean over all prompts.")
    ] = 0.95,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="The recipe [default: MODEL-TARGET-int8.toml]."),
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
    """Find the fewest modules to keep out of INT8 so that masks hold, and write the recipe.

    The search runs in ONNX Runtime, whatever the target; give its answer to
    `effsam export --int8 --int8-recipe FILE`, which judges it in the target itself. Stop it at any
    time: run again, it goes on.
    """
    import tempfile

    from effsam_export import bisect as searching
    from effsam_export import models, pipeline, profiles
    from effsam_export.bisect_judge import Bench
    from effsam_export.files import write_whole
    from effsam_export.quantize import recipes
    from effsam_export.spec import Checkpoint

    talk = console.Console(quiet=quiet)
    spec = models.configured(models.get(model), to_settings(settings))
    profile = profiles.load_target(target, "int8")
    place = output or Path(f"{spec.name}-{profile.name}-int8.toml")
    request = pipeline.ExportRequest(
        model=spec,
        target=profile,
        checkpoint=Checkpoint(path=checkpoint or Path(), sha256="", official=False),
        output=place.with_suffix(".bundle"),
        parity_file=parity,
        force=True,
        int8=int8_request(spec, profile, calib, num_samples, int8_recipe),
    )
    pipeline.check_request(request)
    consent(spec, accept_license, cache_dir)
    request = pipeline.with_checkpoint(request, acquire(spec, checkpoint, cache_dir, talk))
    gate = searching.Gate(least=min_iou, mean=mean_iou)
    assert request.int8 is not None
    with tempfile.TemporaryDirectory(prefix="effsam-") as name:
        bench = Bench(request, Path(name), talk.observe)
        guess = searching.likely_evaluations(bench.layers)

        def told(count: int, seconds: float) -> None:
            left = max(0, guess - count) * seconds / 60
            talk.say(f"  judgement {count} of about {guess}, {seconds:.0f} s, {left:.0f} min left")

        notebook = searching.Notebook(
            place.with_name(f"{place.name}.search.json"), question(request), bench.judge, told
        )
        outcome = searching.search(bench.layers, gate, notebook)
    plan = request.int8.plan
    found: dict[str, Int8Recipe] = {
        c.name: with_choices(plan.recipe(c.name, profile.backend), c.name, outcome)
        for c in spec.components
    }
    text = recipes.to_toml(f"{summary(outcome)}, by ONNX Runtime", found)
    write_whole(place, text.encode())
    if json:
        console.document({"recipe": str(place), **document(outcome)})
    else:
        rows = [[c.layer, c.kept, f"{c.sensitivity:.4f}"] for c in outcome.choices]
        console.data(console.table(("layer", "kept as", "costs alone"), rows))
    talk.say(summary(outcome))
    talk.next(f"effsam export {model} --target {target} --int8 --int8-recipe {place}")


def question(request: ExportRequest) -> str:
    """Everything a judgement depends on besides the layers that are kept, as a hash."""
    import hashlib

    from effsam_export import __version__, profiles
    from effsam_export.calibration.recipe import hashes

    assert request.int8 is not None
    photographs = profiles.load_parity_images(request.parity_file)
    parts = [
        __version__,
        request.model.name,
        request.target.backend,
        repr(sorted(request.model.options.items())),
        request.checkpoint.sha256,
        repr(sorted(request.int8.plan.recipes.items())),
        # Not where the photographs lie: their contents follow.
        repr(replace(request.int8.calibration, images=())),
        repr(sorted(hashes(request.int8.calibration.images).values())),
        repr([(p.cases, hashes([p.path])) for p in photographs]),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def with_choices(recipe: Int8Recipe, component: str, outcome: Outcome) -> Int8Recipe:
    """A recipe with the choices of a search for its component, each with its reason."""
    from effsam_export.bisect_judge import SEPARATOR
    from effsam_export.quantize.plan import Exception8

    more = []
    for choice in outcome.choices:
        owner, _, path = choice.layer.partition(SEPARATOR)
        if owner == component:
            reason = f"quantized alone it costs {choice.sensitivity:.4f} of the mean mask IoU"
            more.append(
                Exception8(
                    modules=(path,), treatment=choice.kept, reason=reason, source="effsam bisect"
                )
            )
    return replace(recipe, exceptions=(*more, *recipe.exceptions))


def summary(outcome: Outcome) -> str:
    """The answer in a line."""
    floating = sum(c.kept == "float" for c in outcome.choices)
    weights = len(outcome.choices) - floating
    before, after = outcome.before, outcome.after
    return (
        f"{floating} layers floating and {weights} with INT8 weights only, of {outcome.layers}: "
        f"least mask IoU {before.least:.4f} to {after.least:.4f}, mean {before.mean:.4f} to "
        f"{after.mean:.4f}, in {outcome.evaluations} judgements"
    )


def document(outcome: Outcome) -> dict[str, object]:
    """The answer as JSON."""
    return asdict(outcome)
