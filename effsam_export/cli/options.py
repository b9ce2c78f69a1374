"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from effsam_export.cli import completion
from effsam_export.cli.model_name import check_model
from effsam_export.errors import OutputError, UsageError, joined, shown
from effsam_export.util.numbers import to_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.pipeline.request import Int8Request
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import TargetProfile


def _cache_folder(path: Optional[Path]) -> Optional[Path]:  # noqa: UP045
    """Return the cache folder unchanged.

    Raises:
        OutputError: It cannot be a folder, or cannot be read.
    """
    if path is not None and not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        from effsam_export.util.files import require_output

        require_output(path / "build", what="the cache", directory=True)
        if path.is_dir():
            raise OutputError(f"the cache `{path}` cannot be read: permission denied")
    return path


# Typer reads these annotations at run time, and Python 3.10 needs `Optional` there.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and data only.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print details too: settings, sources, the output of converters."
    ),
]
CacheDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--cache-dir",
        envvar="EFFSAM_CACHE_DIR",
        callback=_cache_folder,
        help="Folder of downloaded checkpoints, and of the cache of exports and builds "
        "[default: the user's cache].",
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        envvar="EFFSAM_NO_CACHE",
        help="Neither take stages of earlier exports and builds from the cache nor add any.",
    ),
]
CheckpointFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--checkpoint",
        help="Your own weight file, or folder with it, instead of the official one.",
    ),
]
CheckpointKey = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--checkpoint-key",
        metavar="KEY",
        help="Which weights of a file with several: their dictionary's key, or their names' "
        "prefix. `effsam info --checkpoint FILE` lists them [default: averaged ones first].",
    ),
]
BaseFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--base",
        help="Whole checkpoint for the parts that the --checkpoint file lacks, such as one with a "
        "fine-tuned decoder alone.",
    ),
]
LoraAdapter = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--lora",
        metavar="FILE|DIR",
        help="LoRA adapter to merge into the --checkpoint file: PEFT's folder, or a file of "
        "Sam_LoRA or SAMed.",
    ),
]
LoraAlpha = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--lora-alpha", help="The adapter's alpha, where its file has none."),
]
ParityFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--parity",
        help="TOML file of evaluation images and prompts for the parity check "
        "[default: three images of the package].",
    ),
]
AcceptLicense = Annotated[
    bool,
    typer.Option(
        "--accept-license", help="Accept a licence that restricts use; needed once per model."
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model name from `effsam list`.",
        callback=check_model,
        autocompletion=completion.model_names,
    ),
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's directory.")]
BundleOrFile = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="The bundle's directory, or its .effsam.zip file.")
]
KeyFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--key", help="Public Ed25519 key (PEM): require a valid signature of the bundle."
    ),
]
TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="A target name from `effsam targets`, or a TOML file.",
        autocompletion=completion.target_names,
    ),
]
PrecisionName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--precision",
        "-p",
        help="fp32, fp16, bf16 or int8 [default: the target's first].",
        autocompletion=completion.precisions,
    ),
]
Fp32 = Annotated[bool, typer.Option("--fp32", help="Short for --precision fp32.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Short for --precision fp16.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Short for --precision bf16.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Short for --precision int8.")]
ComponentName = Annotated[
    str,
    typer.Option(
        "--component",
        "-c",
        help="A component name (encoder, decoder, segmenter), or all.",
        autocompletion=completion.components,
    ),
]
ModelOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set",
        metavar="NAME=NUMBER",
        help="Model option: changes the graph of the model. `effsam info MODEL` lists them.",
    ),
]
TargetOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Target option: changes how the backend exports or runs it. "
        "`effsam export --dry-run` lists them.",
    ),
]
Calib = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--calib",
        metavar="DIR|RECIPE",
        help="Calibration data for INT8: a folder of images, or a recipe's name or TOML file "
        "[default: five images of the package].",
    ),
]
NumSamples = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--num-samples", help="Number of calibration samples [default: the recipe's]."),
]
Int8File = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--int8-recipe",
        help="TOML file: which layers to quantize and how; `effsam bisect` writes one "
        "[default: a recipe that was measured on these weights, or a search].",
    ),
]
Int8Optimize = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--optimize",
        metavar="size|latency|accuracy",
        help="What the search for an INT8 recipe prefers. If given, it searches even for weights "
        "with a measured recipe [default: size].",
    ),
]
Int8Budget = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--budget",
        metavar="MINUTES",
        help="Time of the search for an INT8 recipe; the best one so far is exported when it is "
        "up [default: 10].",
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch",
        metavar="N|dynamic",
        help="Number of images that one call of the encoder takes.",
    ),
]
KeepFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--keep-fp32",
        help="TOML file: which modules stay in FP32 in an FP16 export; `effsam bisect` writes one "
        "[default: the package's recipe for the model].",
    ),
]


def chosen_precision(
    precision: str | None,
    *,
    fp32: bool = False,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
) -> str | None:
    """Return the precision that the options select, or None for the target's default.

    Raises:
        UsageError: The options select different precisions.
    """
    flags = {"fp32": fp32, "fp16": fp16, "bf16": bf16, "int8": int8}
    selected = {name for name, given in flags.items() if given}
    if precision is not None:
        selected.add(precision)
    if len(selected) > 1:
        raise UsageError(
            f"the options select {' and '.join(map(shown, sorted(selected)))} at once",
            hint="give one precision",
        )
    return selected.pop() if selected else None


def int8_request(
    model: ModelSpec,
    target: TargetProfile,
    calib: str | None,
    num_samples: int | None,
    recipe: Path | None,
) -> Int8Request | None:
    """Return the calibration and recipe of an INT8 export; None for another precision.

    Raises:
        UsageError: An INT8 option is given for another precision, or is wrong.
    """
    from effsam_export.config import calibration, int8_recipe
    from effsam_export.pipeline.request import Int8Request

    if target.precision != "int8":
        given = {"--calib": calib, "--num-samples": num_samples, "--int8-recipe": recipe}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise UsageError(
                f"{' and '.join(unused)}: for int8 only, the precision is {target.precision}",
                hint="add --int8",
            )
        return None
    return Int8Request(
        calibration=calibration.load(calib or calibration.DEFAULT, num_samples),
        plan=int8_recipe.load(model.name, recipe),
    )


def with_search(
    request: Int8Request | None,
    target: TargetProfile,
    recipe: Path | None,
    optimize: str | None,
    budget: float | None,
    cache_dir: Path | None,
) -> Int8Request | None:
    """Return an INT8 request that searches a recipe, unless the user gives one.

    Args:
        request: The request; None for another precision.
        target: The target of the export.
        recipe: The user's recipe file.
        optimize: As `--optimize`.
        budget: As `--budget`.
        cache_dir: Folder of downloads; None for the user's.

    Raises:
        UsageError: An option of the search is given without one, or is wrong.
    """
    from dataclasses import replace

    from effsam_export.pipeline.int8 import search_of

    given = {"--optimize": optimize, "--budget": budget}
    used = " and ".join(name for name, value in given.items() if value is not None)
    if request is None or recipe is not None:
        if used and request is None:
            message = f"{used}: for int8 only, the precision is {target.precision}"
            raise UsageError(message, hint="add --int8")
        if used:
            raise UsageError(
                f"{used}: --int8-recipe gives the recipe, and nothing is searched",
                hint=f"leave out --int8-recipe, or {used}",
            )
        return request
    return replace(request, search=search_of(optimize, budget, cache_dir))


def with_fp16_recipe(spec: ModelSpec, precision: str, path: Path | None) -> ModelSpec:
    """Return the model with the user's FP16 recipe in place of the package's.

    Raises:
        UsageError: The precision is FP32 or BF16, or the file is not a valid recipe.
    """
    if path is None:
        return spec
    from dataclasses import replace

    from effsam_export.config import fp16_recipe

    if precision in ("fp32", "bf16"):
        raise UsageError(f"--keep-fp32 does not apply to {precision}", hint="use --fp16")
    return replace(spec, precision=fp16_recipe.load(path, [c.name for c in spec.components]))


def to_model_options(given: list[str] | None) -> dict[str, float]:
    """Parse model options, `NAME=NUMBER`.

    Raises:
        UsageError: The message lists every option that is malformed or given twice.
    """
    return {
        name: float(value)
        for name, value in _pairs(
            "--set", given, "NAME=NUMBER", "location=8", lambda text: to_number(text) is not None
        )
    }


def to_target_options(given: list[str] | None) -> dict[str, str]:
    """Parse target options, `NAME=VALUE`.

    Raises:
        UsageError: The message lists every option that is malformed or given twice.
    """
    return dict(_pairs("--option", given, "NAME=VALUE", "slots=4", lambda _: True))


def _pairs(
    flag: str, given: list[str] | None, form: str, example: str, is_valid: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """Return names and values, or raise one error that lists all faults."""
    pairs: list[tuple[str, str]] = []
    problems = []
    for text in given or []:
        name, equals, value = text.partition("=")
        if not name or not equals or not is_valid(value):
            problems.append(f"{flag} `{shown(text)}` is not {form}")
        elif any(name == other for other, _ in pairs):
            problems.append(f"{flag} `{shown(name)}` is given twice")
        else:
            pairs.append((name, value))
    if problems:
        raise UsageError(joined(problems), hint=f"example: {flag} {example}")
    return pairs
