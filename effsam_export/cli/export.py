"""`effsam export`: the main job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export import console
from effsam_export.cli.fetch import acquire, consent
from effsam_export.cli.options import (
    AcceptLicense,
    CacheDir,
    CheckpointFile,
    Json,
    ModelName,
    ParityFile,
    Quiet,
)
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from effsam_export.spec import ModelSpec, TargetProfile


def export(
    model: ModelName,
    target: Annotated[
        str,
        typer.Option("--target", "-t", help="A name from `effsam targets`, or a TOML file."),
    ],
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--precision", "-p", help="fp32, fp16 or int8 [default: the target's first]."),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")] = False,
    component: Annotated[
        str, typer.Option("--component", "-c", help="encoder, decoder or all.")
    ] = "all",
    checkpoint: CheckpointFile = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Directory [default: MODEL-TARGET-PRECISION]."),
    ] = None,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="NAME=NUMBER", help="A setting that `effsam info` lists."),
    ] = None,
    option: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--option", metavar="NAME=VALUE", help="An option of the target, in place of its own."
        ),
    ] = None,
    parity: ParityFile = None,
    accept_license: AcceptLicense = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a bundle that is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    cache_dir: CacheDir = None,
) -> None:
    """Export a model for a target, prove it against PyTorch, and write a bundle."""
    from effsam_export import models, pipeline, profiles
    from effsam_export.spec import Checkpoint

    talk = console.Console(quiet=quiet)
    spec = models.configured(models.get(model), to_settings(settings or []))
    profile = profiles.load_target(
        target, chosen_precision(precision, fp16=fp16, int8=int8), to_options(option or [])
    )
    place = output or Path(f"{spec.name}-{profile.name}-{profile.precision}")
    components = () if component == "all" else (component,)
    if dry_run:
        _show_plan(spec, profile, place, components, as_json=json)
        return
    # Everything that can be refused is refused before a download.
    request = pipeline.ExportRequest(
        model=spec,
        target=profile,
        checkpoint=Checkpoint(path=checkpoint or Path(), sha256="", official=False),
        output=place,
        components=components,
        parity_file=parity,
        force=force,
    )
    pipeline.check_request(request)
    consent(spec, accept_license, cache_dir)
    request = pipeline.with_checkpoint(request, acquire(spec, checkpoint, cache_dir, talk))
    what = f"{spec.name} {profile.name} {profile.precision}"
    try:
        report = pipeline.export(request, talk.observe)
    except pipeline.ParityFailed as failure:
        talk.say(f"\n{console.parity_table(failure.report)}\n")
        talk.verdict(passed=False, what=f"{what}, {console.state(failure.report)}")
        raise
    finally:
        talk.close()
    talk.say(f"\n{console.parity_table(report)}\n")
    if json:
        console.document({"bundle": str(place), "passed": True, **pipeline.figures(report)})
    else:
        console.data(str(place))
    talk.verdict(passed=True, what=f"{what}, {console.state(report)}")
    talk.next(f"effsam run {place} IMAGE --point X,Y --output overlay.png")


def chosen_precision(precision: str | None, *, fp16: bool, int8: bool) -> str | None:
    """The one precision asked for, or None for the target's default.

    Raises:
        UsageError: Two different ones were asked for.
    """
    asked = {p for p in (precision, "fp16" if fp16 else None, "int8" if int8 else None) if p}
    if len(asked) > 1:
        raise UsageError(f"asked for {' and '.join(sorted(asked))} at once", hint="choose one")
    return asked.pop() if asked else None


def to_settings(given: list[str]) -> dict[str, float]:
    """Parse `NAME=NUMBER` settings.

    Raises:
        UsageError: Every one that is malformed or given twice.
    """
    settings: dict[str, float] = {}
    problems = []
    for text in given:
        name, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name or not math.isfinite(number):
            problems.append(f"--set `{text}` is not NAME=NUMBER")
        elif name in settings:
            problems.append(f"--set `{name}` is given twice")
        else:
            settings[name] = number
    if problems:
        raise UsageError("; ".join(problems), hint="as in --set location=8")
    return settings


def to_options(given: list[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` options.

    Raises:
        UsageError: Every one that is malformed or given twice.
    """
    options: dict[str, str] = {}
    problems = []
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            problems.append(f"--option `{text}` is not NAME=VALUE")
        elif name in options:
            problems.append(f"--option `{name}` is given twice")
        else:
            options[name] = value
    if problems:
        raise UsageError("; ".join(problems), hint="as in --option slots=4")
    return options


def _show_plan(
    spec: ModelSpec,
    profile: TargetProfile,
    place: Path,
    components: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Print the resolved plan of an export."""
    names = components or tuple(c.name for c in spec.components)
    plan = {
        "model": spec.name,
        "settings": dict(spec.options),
        "target": profile.name,
        "backend": profile.backend,
        "precision": profile.precision,
        "opset": profile.opset,
        "options": dict(profile.options),
        "gates": {
            "mask_iou": profile.gates.mask_iou,
            "score_error": profile.gates.score_error,
            "cosine": profile.gates.cosine,
        },
        "components": list(names),
        "output": str(place),
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
