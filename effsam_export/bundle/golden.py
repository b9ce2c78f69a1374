"""Read the golden vectors of a bundle: an image, prompts, and the masks of PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.bundle import paths
from effsam_export.errors import BundleError, PromptError, shown
from effsam_export.imaging import arrays, rle
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.images import check_prompt
from effsam_export.spec.prompts import Point, Prompt, PromptSupport
from effsam_export.spec.sizes import from_document, sides
from effsam_export.util import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.tensors import Float32

MAX_BYTES = 64_000_000
"""Masks as run lengths take a few hundred thousand bytes each."""
MAX_CASES, MAX_MASKS = 256, 64
"""Prompts of a bundle, and masks of a prompt; decoders have four."""
MAX_MASK_BYTES = 16_000_000
LABELS = (0, 1)


@dataclass(frozen=True, kw_only=True)
class GoldenMarks:
    """Which masks of a prompt are compared, where PyTorch is not confident of all.

    Attributes:
        compared: Indices of the compared masks, among those a user gets.
        best_may_change: Whether another mask may have the best score.
        stability: N values from 0 to 1; empty for a model that detects instances.
    """

    compared: tuple[int, ...]
    best_may_change: bool
    stability: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One prompt with the output of PyTorch.

    Attributes:
        answers: Indices of the masks a user gets.
        encoded: N checked run-length encoded masks, in the order of the graph's output.
        scores: N predicted scores.
        marks: What the file says of the comparison; None if all `answers` and all scores are
            compared, as in every bundle of earlier versions.
    """

    name: str
    prompt: Prompt
    answers: tuple[int, ...]
    encoded: tuple[Mapping[str, Any], ...]
    scores: Float32
    marks: GoldenMarks | None = None

    @property
    def compared(self) -> tuple[int, ...]:
        """Indices of the masks whose IoU is compared."""
        return self.answers if self.marks is None else self.marks.compared

    @property
    def not_compared(self) -> int:
        """Number of uncompared masks of those a user gets: PyTorch is not confident of them."""
        return len(self.answers) - len(self.compared)

    def score_error(self, scores: NDArray[Any]) -> float:
        """Return the largest error of the compared scores; NaN if any of N scores is not finite."""
        errors = np.abs(scores - self.scores)
        if not np.isfinite(errors).all():
            return math.nan
        return float((errors if self.marks is None else errors[list(self.compared)]).max(initial=0))

    @property
    def masks(self) -> NDArray[np.bool_]:
        """N x height x width, decoded at each use: a small file may hold masks of gigabytes."""
        return np.stack([rle.decode(m) for m in self.encoded])


@dataclass(frozen=True, kw_only=True)
class Golden:
    """The golden vectors of a bundle.

    Attributes:
        image: Height x width x 3, RGB.
        mask_iou, score_error: Tolerances: minimum IoU of a mask, maximum error of a score.
    """

    image: NDArray[np.uint8]
    cases: tuple[GoldenCase, ...]
    mask_iou: float
    score_error: float


def read_golden(bundle: Bundle) -> Golden | None:
    """Return the golden vectors; None if the bundle holds one component of two.

    Raises:
        BundleError: Their files cannot be read, or contradict each other.
    """
    name = bundle.manifest["golden"]
    if name is None:
        return None
    file = bundle.path / str(name)
    try:
        document = json_text.load(file, max_bytes=MAX_BYTES, max_values=2 * json_text.MAX_VALUES)
        image = load_image(_beside(file, document["image"]))
        cases = document["cases"]
        if not 1 <= len(cases) <= MAX_CASES:
            raise ValueError(f"it has {len(cases)} prompts")
        mask_iou, score_error = (
            _number(document["tolerances"][key]) for key in ("mask_iou", "score_error")
        )
        if not 0 <= mask_iou <= 1 or score_error < 0:
            raise ValueError(f"its tolerances are {mask_iou:g} and {score_error:g}")
        size = (image.shape[0], image.shape[1])
        found = tuple(_case(c, file, size) for c in cases)
        if len({c.name for c in found}) != len(found):
            raise ValueError("two prompts have one name")
        if not any(c.compared for c in found):
            raise ValueError("no mask of any prompt is compared")
        for case in found:
            _check_prompt(case, size, bundle.manifest)
        return Golden(image=image, cases=found, mask_iou=mask_iou, score_error=score_error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"`{file}` cannot be read: {error}") from error


def _check_prompt(case: GoldenCase, size: tuple[int, int], manifest: Mapping[str, Any]) -> None:
    """Check that the bundle's graphs take a prompt on an image of (height, width).

    Raises:
        ValueError: They do not.
    """
    try:
        check_prompt(case.prompt, size, PromptSupport(**manifest["prompts"]["supports"]))
    except PromptError as error:
        raise ValueError(f"prompt `{case.name}`: {error.message}") from error
    size_of_mask, mask = from_document(manifest["masks"]["low_res_size"]), case.prompt.mask_input
    if mask is not None and mask.shape != sides(size_of_mask):
        raise ValueError(f"the mask of prompt `{case.name}` has shape {list(mask.shape)}")


def _beside(file: Path, name: object) -> Path:
    """Return the path of a file in the folder of the golden vectors.

    Raises:
        ValueError: It is not the name of a file, or the file is a link.
    """
    if not isinstance(name, str) or "/" in name or paths.fault(name):
        raise ValueError(f"`{shown(name)}` is not the name of a file")
    if (file.parent / name).is_symlink():
        raise ValueError(f"`{name}` is a link")
    return file.parent / name


def _case(case: Mapping[str, Any], file: Path, size: tuple[int, int]) -> GoldenCase:
    """Return a prompt of a document.

    Args:
        case: Its entry in `cases`.
        file: The document.
        size: Height and width of the image, and of every mask.

    Raises:
        ValueError, KeyError, TypeError, BundleError: The entry is not valid.
    """
    name, mask, box = case["name"], case["mask_input"], case["box"]
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError("the name of a prompt is not printable text")
    encoded, scores = case["masks"], [_number(s) for s in case["scores"]]
    if not 1 <= len(encoded) <= MAX_MASKS or len(scores) != len(encoded):
        raise ValueError(f"prompt `{name}` has {len(encoded)} masks and {len(scores)} scores")
    for entry in encoded:
        rle.check(entry, size)
    answers = case["answers"]
    if not answers or any(type(a) is not int or not 0 <= a < len(encoded) for a in answers):
        raise ValueError(f"prompt `{name}` has the answers {shown(answers)}")
    points = [[_number(v) for v in point] for point in case["points"]]
    if any(len(p) != 3 or p[2] not in LABELS for p in points):
        raise ValueError(f"prompt `{name}` has a point that is not [x, y, label]")
    return GoldenCase(
        name=name,
        prompt=Prompt(
            points=tuple(Point(x=x, y=y, label=int(label)) for x, y, label in points),
            box=None if box is None else _box([_number(v) for v in box]),
            mask_input=None if mask is None else _mask_input(_beside(file, mask)),
        ),
        answers=tuple(answers),
        encoded=tuple(encoded),
        scores=arrays.to_float32(np.asarray(scores)),
        marks=_marks(case, name, tuple(answers)) if "compared" in case else None,
    )


def _marks(case: Mapping[str, Any], name: str, answers: tuple[int, ...]) -> GoldenMarks:
    """Return which masks of a prompt are compared.

    Raises:
        ValueError, KeyError, TypeError: The entry is not valid.
    """
    compared, may_change = case["compared"], case["best_may_change"]
    is_part = all(type(i) is int and i in answers for i in compared)
    if not is_part or len(set(compared)) != len(compared):
        raise ValueError(f"prompt `{name}` compares the masks {shown(compared)}")
    if not isinstance(may_change, bool):
        raise ValueError(f"`{shown(may_change)}` is neither true nor false")
    stability = tuple(_number(value) for value in case["stability"])
    if len(stability) not in (0, len(case["masks"])) or any(not 0 <= v <= 1 for v in stability):
        raise ValueError(f"prompt `{name}` has the stability {shown(case['stability'])}")
    return GoldenMarks(compared=tuple(compared), best_may_change=may_change, stability=stability)


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1


def _mask_input(path: Path) -> Float32:
    with path.open("rb") as file:
        return arrays.to_float32(arrays.read_npy(file.read(MAX_MASK_BYTES)))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"`{shown(value)}` is not a finite number")
    return float(value)
