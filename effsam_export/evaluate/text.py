"""An evaluation as rows of text, and as a Markdown page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.evaluate.statistics import RESAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from effsam_export.evaluate.results import Evaluated, Evaluation, Result
    from effsam_export.evaluate.statistics import Interval

ABSENT = "-"
COLUMNS = ("prompt", "size", "objects", "mIoU", "95 % interval")
COMPARED = ("PyTorch", "difference", "95 % interval", "agreement", "best mask changes")
"""Further columns of a table beside a reference."""


def header(evaluated: Evaluated) -> tuple[str, ...]:
    """Return the columns of a bundle's table."""
    return COLUMNS if evaluated.reference is None else COLUMNS + COMPARED


def rows(evaluated: Evaluated) -> list[list[str]]:
    """Return the rows of a bundle's table."""
    compared = evaluated.reference is not None
    return [[*_own(r), *(_compared(r) if compared else ())] for r in evaluated.results]


def about(evaluated: Evaluated) -> str:
    """Return what a bundle is, what ran it and how fast."""
    what = f"{evaluated.model} for {evaluated.target}, {evaluated.precision}; {evaluated.runtime}"
    if evaluated.images_per_second is not None:
        what += f"; {speed(evaluated.images_per_second)}"
    if evaluated.reference is not None:
        beside = evaluated.reference
        what += f"; beside PyTorch with {beside.file}, {speed(beside.images_per_second)}"
    return what


def speed(images_per_second: float) -> str:
    """Return a number of images a second."""
    digits = 0 if images_per_second >= 100 else 2
    return f"{images_per_second:.{digits}f} images a second"


def source(evaluation: Evaluation) -> str:
    """Return what the bundles were evaluated on."""
    given = evaluation.annotations
    text = f"{given.file}, {given.objects} objects in {given.images} images"
    if given.limit is not None:
        text += f" (limit {given.limit})"
    left_out = [
        f"{count} {what}"
        for count, what in ((given.crowds, "of crowds"), (given.empty, "without a pixel"))
        if count
    ]
    return f"{text}; left out {' and '.join(left_out)}" if left_out else text


def method(evaluation: Evaluation) -> str:
    """Return how the figures were computed."""
    return (
        "mean IoU over objects; intervals of 95 % from "
        f"{RESAMPLES} bootstrap draws of the images, seed {evaluation.seed}"
    )


def markdown(evaluation: Evaluation) -> str:
    """Return the evaluation as a Markdown page."""
    return "\n".join(_markdown(evaluation)) + "\n"


def _markdown(evaluation: Evaluation) -> Iterator[str]:
    yield "# Mask IoU with annotated images"
    yield ""
    yield f"* Annotations: {_plain(source(evaluation))}"
    yield f"* Machine: {_plain(evaluation.machine.sentence())}"
    yield f"* Figures: {method(evaluation)}"
    for evaluated in evaluation.bundles:
        yield ""
        yield f"## {_plain(evaluated.bundle)}"
        yield ""
        yield f"{_plain(about(evaluated))}."
        for note in evaluated.notes:
            yield ""
            yield f"Note: {_plain(note)}."
        yield ""
        columns = header(evaluated)
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * 2}{'---:|' * (len(columns) - 2)}"
        for row in rows(evaluated):
            yield f"| {' | '.join(row)} |"


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _own(result: Result) -> list[str]:
    return [
        result.prompt,
        result.size,
        str(result.objects),
        _number(result.miou),
        _interval(result.interval),
    ]


def _compared(result: Result) -> list[str]:
    changes = result.best_mask_changes
    return [
        _number(result.reference_miou),
        _number(result.difference, signed=True),
        _interval(result.difference_interval, signed=True),
        _number(result.agreement),
        ABSENT if changes is None else f"{100 * changes:.1f} %",
    ]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return ABSENT
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _interval(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ABSENT
    return " to ".join(_number(limit, signed=signed) for limit in value)
