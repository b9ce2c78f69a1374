"""The prompts that the options of `effsam run` spell out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import PromptError, UnknownNameError, UsageError, shown
from effsam_export.util.numbers import to_number
from effsam_export.util.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.inference.automatic_masks import GridSettings
    from effsam_export.spec.prompts import Point, Prompt

FORMATS = ("table", "json", "coco")
SPELLED = ("--point", "--box", "--mask-input")
"""Options that spell out a prompt."""


def to_prompts(points: list[str], boxes: list[str], has_mask: bool = False) -> tuple[Prompt, ...]:
    """Return the prompts of the options: one prompt, or one for each of several boxes.

    `has_mask` says that a mask belongs to the prompt.

    Raises:
        PromptError: A value is malformed, or points or a mask are combined with several boxes.
        SeveralProblems: Several of these.
    """
    from effsam_export.spec.prompts import MAX_POINTS, Prompt

    problems = Problems()
    for option, given in (("--point", points), ("--box", boxes)):
        if len(given) > MAX_POINTS:
            raise PromptError(
                f"{option} is given {len(given)} times", hint=f"give it {MAX_POINTS} times at most"
            )
    parsed: list[tuple[float, float, float, float]] = []
    clicks: list[Point] = []
    for text in boxes:
        with problems.gather():
            parsed.append(_box(text))
    for text in points:
        with problems.gather():
            clicks.append(_point(text))
    if len(boxes) > 1 and (points or has_mask):
        what = "--point" if points else "--mask-input"
        problems.add(
            PromptError(
                f"{what} can be combined with one --box, not with {len(boxes)}",
                hint="several boxes are separate prompts: run them one at a time",
            )
        )
    if not boxes and not points and not has_mask:
        problems.add(
            PromptError("there is no prompt", hint="give --point X,Y or --box X0,Y0,X1,Y1")
        )
    problems.raise_any("the prompts are wrong")
    if len(parsed) > 1:
        return tuple(Prompt(box=b) for b in parsed)
    return (Prompt(points=tuple(clicks), box=parsed[0] if parsed else None),)


def _numbers(text: str, option: str, form: str, counts: tuple[int, ...]) -> list[float]:
    numbers = [to_number(part) for part in text.split(",")]
    values = [n for n in numbers if n is not None]
    if len(values) not in counts or len(values) != len(numbers):
        raise PromptError(
            f"{option} `{shown(text)}` is not {form}",
            hint=f"write {option} {form}, in pixels of the original image",
        )
    return values


def _point(text: str) -> Point:
    from effsam_export.spec.prompts import Point

    x, y, *label = _numbers(text, "--point", "X,Y[,LABEL]", (2, 3))
    if label and label[0] not in (0, 1):
        raise PromptError(
            f"--point `{shown(text)}` has label {label[0]:g}", hint="1: on the object, 0: off it"
        )
    return Point(x=x, y=y, label=int(label[0]) if label else 1)


def _box(text: str) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = _numbers(text, "--box", "X0,Y0,X1,Y1", (4,))
    return x0, y0, x1, y1


def check_combination(
    prompts: Sequence[str], grid: Sequence[str], problems: Problems, *, everything: bool
) -> None:
    """Keep an error for options that do not go together.

    Args:
        prompts: The given options that are for prompts.
        grid: The given options that are for --everything.
        problems: Receives the errors.
        everything: Whether --everything is given.
    """
    beside = [option for option in prompts if option in SPELLED]
    if "--prompts" in prompts and beside:
        problems.add(
            PromptError(
                f"--prompts cannot be combined with {' and '.join(beside)}",
                hint="write all prompts into the file",
            )
        )
    if everything and prompts:
        problems.add(
            PromptError(
                f"--everything cannot be combined with {' and '.join(prompts)}",
                hint="leave one out",
            )
        )
    if grid and not everything:
        problems.add(
            PromptError(f"{' and '.join(grid)}: for --everything only", hint="add --everything")
        )


def to_grid(options: Mapping[str, float | None]) -> GridSettings:
    """Return the settings of the options for --everything; None is the authors' default."""
    from effsam_export.inference.automatic_masks import GridSettings

    default = GridSettings()

    def value(option: str, otherwise: float) -> float:
        given = options[option]
        return otherwise if given is None else given

    return GridSettings(
        points_per_side=int(value("--grid", default.points_per_side)),
        points_per_batch=int(value("--points-per-batch", default.points_per_batch)),
        score=value("--pred-iou-thresh", default.score),
        stability=value("--stability-score-thresh", default.stability),
        stability_offset=value("--stability-score-offset", default.stability_offset),
        box_nms=value("--box-nms-thresh", default.box_nms),
        crop_layers=int(value("--crop-n-layers", default.crop_layers)),
        crop_nms=value("--crop-nms-thresh", default.crop_nms),
        crop_overlap=value("--crop-overlap-ratio", default.crop_overlap),
        crop_downscale=int(value("--crop-n-points-downscale-factor", default.crop_downscale)),
        min_region_area=int(value("--min-mask-region-area", default.min_region_area)),
    )


def chosen_format(name: str | None, *, json: bool) -> str:
    """Return what to print, one of `FORMATS`; `json` is the option --json.

    Raises:
        UsageError: The name is unknown, or contradicts --json.
    """
    if name is not None and name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    if json and name not in (None, "json"):
        raise UsageError(f"--json and --format {name} contradict each other", hint="give one")
    return "json" if json else name or "table"
