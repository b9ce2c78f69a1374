"""Annotated images: what an annotation file gives to an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from effsam_export.config.toml import data_dir

if TYPE_CHECKING:
    from pathlib import Path

SizeClass = Literal["small", "medium", "large"]
SMALL, MEDIUM = 32**2, 96**2
"""Areas in pixels below which COCO calls an object small, and medium."""
SHIPPED = "instances.json"
"""Annotation file of the images that ship."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedObject:
    """One annotated object.

    Attributes:
        id: Of the annotation.
        mask: Its mask as COCO's compressed run lengths, `size` and `counts`.
        area: The annotation's `area`, or the number of pixels of the mask.
        box: (x0, y0, x1, y1) of the annotation's `bbox`, or around the mask, in pixels.
    """

    id: int | str
    mask: dict[str, Any]
    area: float
    box: tuple[float, float, float, float]

    @property
    def size_class(self) -> SizeClass:
        """COCO's class of its area."""
        return "small" if self.area < SMALL else "medium" if self.area < MEDIUM else "large"


@dataclass(frozen=True, kw_only=True)
class AnnotatedImage:
    """An image with at least one object.

    Attributes:
        id: Of the image in the annotation file.
        path: Its file.
        size: Height and width in pixels.
    """

    id: int | str
    path: Path
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of an annotation file that have objects, in its order.

    Attributes:
        file: Name of the annotation file.
        sha256: Its hash.
        crowds: Number of annotations of crowds that were left out.
        empty: Number of annotations that were left out because their area is below one pixel.
    """

    file: str
    sha256: str
    images: tuple[AnnotatedImage, ...]
    crowds: int = 0
    empty: int = 0

    @property
    def count(self) -> int:
        """Number of objects."""
        return sum(len(image.objects) for image in self.images)

    def limited(self, limit: int | None, seed: int) -> Dataset:
        """Return the dataset with at most `limit` images, chosen at random by `seed`.

        A smaller limit chooses from the images of a larger one. None keeps all.
        """
        if limit is None or limit >= len(self.images):
            return self
        order = list(range(len(self.images)))
        Random(seed).shuffle(order)
        return replace(self, images=tuple(self.images[i] for i in sorted(order[:limit])))


def shipped() -> tuple[Path, Path]:
    """Return the annotation file and the images of the package."""
    folder = data_dir("calibration")
    return folder / "annotations" / SHIPPED, folder / "images"
