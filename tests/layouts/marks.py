"""Prompts as the apps have them, and the mask of our predictor for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

import effsam_export
from tests.layouts.shallow import SHALLOW_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.model import ModelSpec
    from tests.layouts.apps import Mark

MARKS: dict[str, list[Mark]] = {
    "point": [("point", (60, 40), 1)],
    "points": [("point", (60, 40), 1), ("point", (20, 20), 0)],
    "box": [("rectangle", (30, 12, 90, 70), 0)],
    "both": [("rectangle", (30, 12, 90, 70), 0), ("point", (60, 40), 1)],
}


class LayoutBundle(Protocol):
    """The fixture `layout_bundle`."""

    def __call__(self, target: str, precision: str, model: ModelSpec = SHALLOW_SAM) -> Path: ...


def best_mask(folder: Path, image: NDArray[np.uint8], marks: list[Mark]) -> NDArray[np.bool_]:
    """The mask of `effsam run` for an app's marks."""
    points = [(data, label) for kind, data, label in marks if kind == "point"]
    boxes = [data for kind, data, _ in marks if kind == "rectangle"]
    with effsam_export.load(folder) as predictor:
        predictor.set_image(image)
        masks, scores, _ = predictor.predict(
            point_coords=np.asarray([p for p, _ in points]) if points else None,
            point_labels=np.asarray([label for _, label in points]) if points else None,
            box=np.asarray(boxes[0]) if boxes else None,
        )
    assert masks.shape[1:] == image.shape[:2]
    best: NDArray[np.bool_] = masks[int(np.argmax(scores))]
    return best
