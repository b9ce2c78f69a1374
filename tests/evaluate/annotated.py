"""Small images with annotations in COCO's format, and a segmenter whose masks are given."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.inference.runner import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.spec.prompts import Prompt

WIDTH, HEIGHT = 120, 80


def rectangle(x: int, y: int, width: int, height: int) -> list[float]:
    """A polygon that covers whole pixels."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def mask_of(x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    """The same pixels as a mask of an image."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def annotation(number: int, image: int, *rectangles: tuple[int, int, int, int]) -> dict[str, Any]:
    """An annotation of an object of rectangles, without `area` and `bbox`."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "segmentation": [rectangle(*sides) for sides in rectangles],
    }


def document(*annotations: dict[str, Any], images: int = 1) -> dict[str, Any]:
    """A COCO document of images `1.png`, `2.png` and so on."""
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
            for n in range(1, images + 1)
        ],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "thing"}],
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write a COCO document and its images into a folder; return the annotation file."""
    generator = np.random.default_rng(0)
    for entry in content["images"]:
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{entry['id']}.png")
    path = folder / "instances.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


class Given:
    """A segmenter that gives masks by the order of its prompts, and keeps the prompts.

    Args:
        masks: Each is the best of three for the next prompt.
        index: Position of the best mask.
    """

    def __init__(self, masks: Sequence[NDArray[np.bool_]], index: int = 1) -> None:
        self._masks, self._index = list(masks), index
        self.prompts: list[Prompt] = []
        self.images = 0

    def set_image(self, image: NDArray[np.uint8]) -> None:
        self.images += 1

    def answer(self, prompt: Prompt, *, only_best: bool = False) -> Prediction:
        assert only_best
        mask = self._masks[len(self.prompts)]
        self.prompts.append(prompt)
        return Prediction(
            masks=mask[None],
            scores=np.ones(1, np.float32),
            low_res_masks=None,
            indices=(self._index,),
        )


def ticking(step: float) -> Callable[[], float]:
    """A clock that advances by a step at each call."""
    now = iter(np.arange(1, 10_000) * step)
    return lambda: float(next(now))
