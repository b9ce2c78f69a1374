"""A COCO document of the masks of a run, as `pycocotools.coco.COCO` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export._version import __version__
from effsam_export.imaging import rle
from effsam_export.inference.mask_files import numbered
from effsam_export.inference.run_records import OBJECT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.inference.run_records import ImageResult


class CocoDocument:
    """Collects the masks of images: the best of each prompt, or all that were generated.

    Args:
        categories: Names of the categories with their numbers; none for a single `object`.
        title: What made the masks.
    """

    def __init__(self, categories: Mapping[str, int], title: str) -> None:
        self._categories = dict(categories) or {OBJECT: 1}
        self._title = title
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, result: ImageResult) -> None:
        """Add an image and its masks; an empty mask has area 0 and a box of zeros."""
        task = result.task
        height, width = task.size
        self._images.append(
            {"id": task.image_id, "file_name": task.file_name, "width": width, "height": height}
        )
        for number, mask in numbered(result.masks).items():
            x0, y0, x1, y1 = mask.box or (0, 0, -1, -1)
            category = task.prompts[number - 1].category if task.prompts else OBJECT
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": task.image_id,
                    "category_id": self._categories[category],
                    "segmentation": rle.coco(mask.mask),
                    "area": mask.area,
                    "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                    "iscrowd": 0,
                    "score": mask.score,
                    "prompt": number,
                }
            )

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "info": {"description": self._title, "version": __version__},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": n, "name": name} for name, n in self._categories.items()],
        }
