"""Options that more than one command has, defined once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.pipeline.request import Int8Request
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import TargetProfile

# Typer reads these annotations at run time on Python 3.10, so they are spelt the old way.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and data.")]
CacheDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--cache-dir",
        envvar="EFFSAM_CACHE_DIR",
        help="Where fetched checkpoints are kept [default: the user's cache].",
    ),
]
CheckpointFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--checkpoint", help="The authors' weight file [default: fetch it]."),
]
ParityFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--parity",
        help="TOML file with your own photographs and prompts to judge by "
        "[default: those that ship].",
    ),
]
AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license", help="Consent to a licence that is not free; asked for once a model."
    ),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name from `effsam list`.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Directory of a bundle.")]
BundleOrFile = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="A bundle: its directory or its .effsam.zip.")
]
KeyFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--key", help="A public Ed25519 key in PEM that has to have signed the bundle."),
]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="A name from `effsam targets`, or a TOML file.")
]
PrecisionName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--precision", "-p", help="fp32, fp16 or int8 [default: the target's first]."),
]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")]
ComponentName = Annotated[str, typer.Option("--component", "-c", help="encoder, decoder or all.")]
ModelOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="NAME=NUMBER", help="A setting that `effsam info` lists."),
]
Calib = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--calib",
        metavar="DIR|RECIPE",
        help="What INT8 is calibrated on: a folder of photographs, a recipe's name or TOML file "
        "[default: the photographs that ship].",
    ),
]
NumSamples = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--num-samples", help="Calibration samples [default: the recipe's]."),
]
Int8File = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--int8-recipe",
        help="TOML file of what INT8 quantizes, as `effsam bisect` writes it "
        "[default: the best known].",
    ),
]
KeepFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--keep-fp32",
        help="TOML file of what stays in FP32 where the rest is FP16, as `effsam bisect` writes "
        "it [default: the model's own].",
    ),
]
TargetOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--option", metavar="NAME=VALUE", help="An option of the target, in place of its own."
    ),
]


def chosen_precision(precision: str | None, *, fp16: bool, int8: bool = False) -> str | None:
    """The one precision asked for, or None for the target's default.

    Raises:
        UsageError: Two different ones were asked for.
    """
    asked = {p for p in (precision, "fp16" if fp16 else None, "int8" if int8 else None) if p}
    if len(asked) > 1:
        raise UsageError(f"asked for {' and '.join(sorted(asked))} at once", hint="choose one")
    return asked.pop() if asked else None


def int8_request(
    model: ModelSpec,
    target: TargetProfile,
    calib: str | None,
    num_samples: int | None,
    recipe: Path | None,
) -> Int8Request | None:
    """What an INT8 export is asked to do; None for another precision.

    Raises:
        UsageError: Options of INT8 for another precision, or what is wrong with them.
    """
    from effsam_export.config import calibration, int8_recipe
    from effsam_export.pipeline.request import Int8Request

    if target.precision != "int8":
        given = {"--calib": calib, "--num-samples": num_samples, "--int8-recipe": recipe}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise UsageError(
                f"{' and '.join(idle)}: nothing is calibrated in {target.precision}",
                hint="add --int8",
            )
        return None
    return Int8Request(
        calibration=calibration.load(calib or calibration.DEFAULT, num_samples),
        plan=int8_recipe.load(model.name, recipe),
    )


def with_recipe(spec: ModelSpec, precision: str, path: Path | None) -> ModelSpec:
    """The model with a user's precision recipe in place of its own.

    Raises:
        UsageError: Nothing is in FP16 in this precision, or what is wrong with the file.
    """
    if path is None:
        return spec
    from dataclasses import replace

    from effsam_export.config import fp16_recipe

    if precision == "fp32":
        raise UsageError("--keep-fp32: all of an fp32 export stays in FP32", hint="add --fp16")
    return replace(spec, precision=fp16_recipe.load(path, [c.name for c in spec.components]))


def to_model_options(given: list[str] | None) -> dict[str, float]:
    """Parse `NAME=NUMBER` settings of a model.

    Raises:
        UsageError: Every one that is malformed or given twice.
    """
    return {
        name: float(value)
        for name, value in _pairs("--set", given, "NAME=NUMBER", "location=8", _is_number)
    }


def to_target_options(given: list[str] | None) -> dict[str, str]:
    """Parse `NAME=VALUE` options of a target.

    Raises:
        UsageError: Every one that is malformed or given twice.
    """
    return dict(_pairs("--option", given, "NAME=VALUE", "slots=4", lambda _: True))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _pairs(
    flag: str, given: list[str] | None, form: str, example: str, right: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """Names and values, or one error with everything that is wrong."""
    pairs: list[tuple[str, str]] = []
    problems = []
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name or not equals or not right(value):
            problems.append(f"{flag} `{text}` is not {form}")
        elif any(name == other for other, _ in pairs):
            problems.append(f"{flag} `{name}` is given twice")
        else:
            pairs.append((name, value))
    if problems:
        raise UsageError("; ".join(problems), hint=f"as in {flag} {example}")
    return pairs
