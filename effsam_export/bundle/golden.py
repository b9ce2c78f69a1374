"""Read the golden vectors of a bundle: an image, prompts, and the masks of PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.errors import BundleError
from effsam_export.imaging import rle
from effsam_export.imaging.images import load_image
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.tensors import Float32


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One prompt with the output of PyTorch.

    Attributes:
        answers: Indices of the masks a user gets.
        masks: N x height x width, all masks in the order of the graph's output.
        scores: N predicted scores.
    """

    name: str
    prompt: Prompt
    answers: tuple[int, ...]
    masks: NDArray[np.bool_]
    scores: Float32


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
        BundleError: Their files cannot be read.
    """
    name = bundle.manifest["golden"]
    if name is None:
        return None
    file = bundle.path / str(name)
    try:
        document = json.loads(file.read_text("utf-8"))
        return Golden(
            image=load_image(file.parent / document["image"]),
            cases=tuple(_case(c, file.parent) for c in document["cases"]),
            mask_iou=float(document["tolerances"]["mask_iou"]),
            score_error=float(document["tolerances"]["score_error"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"`{file}` cannot be read: {error}") from error


def _case(case: dict[str, Any], directory: Path) -> GoldenCase:
    mask = case["mask_input"]
    return GoldenCase(
        name=case["name"],
        prompt=Prompt(
            points=tuple(Point(x=x, y=y, label=label) for x, y, label in case["points"]),
            box=None if case["box"] is None else tuple(case["box"]),
            mask_input=None
            if mask is None
            else np.load(directory / Path(mask).name, allow_pickle=False),
        ),
        answers=tuple(case["answers"]),
        masks=np.stack([rle.decode(m) for m in case["masks"]]),
        scores=np.asarray(case["scores"], dtype=np.float32),
    )
