"""Crops of automatic mask generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export import models
from effsam_export.imaging.images import frame_of
from effsam_export.inference import automatic_masks
from effsam_export.inference.automatic_masks import GridSettings, generate
from effsam_export.inference.crops import Crop, crops, is_cut
from effsam_export.inference.mask_records import record_of
from effsam_export.inference.runner import Embedded
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from effsam_export.inference.mask_records import MaskRecord
    from effsam_export.spec.tensors import Feeds

MODEL = models.get("mobile-sam")


def test_boxes_of_two_layers() -> None:
    """Worked by hand from the authors' rule for 400x300 pixels.

    Layer 1: overlap int(0.25 * 300) = 75, width ceil((75 + 400) / 2) = 238, height 188. Layer 2:
    overlap 37, width ceil((111 + 400) / 4) = 128, height 103.
    """
    found = crops((300, 400), 2, 0.25)
    assert found[0] == Crop(box=(0, 0, 400, 300), layer=0)
    assert [c.box for c in found[1:5]] == [
        (0, 0, 238, 188),
        (0, 113, 238, 300),
        (163, 0, 400, 188),
        (163, 113, 400, 300),
    ]
    assert [c.layer for c in found] == [0] + [1] * 4 + [2] * 16
    assert found[5].box == (0, 0, 128, 103)
    assert found[6].box == (0, 66, 128, 169)
    assert found[-1].box == (273, 198, 400, 300)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (17, 2), (1080, 1920)])
@pytest.mark.parametrize("layers", [0, 1, 4])
def test_crops_cover_the_image(size: tuple[int, int], layers: int) -> None:
    for layer in range(layers + 1):
        seen = np.zeros(size, dtype=np.bool_)
        for crop in crops(size, layers, 512 / 1500):
            if crop.layer == layer:
                assert min(crop.size) >= 1
                seen[crop.box[1] : crop.box[3], crop.box[0] : crop.box[2]] = True
        assert seen.all()


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((0, 0, 100, 100), False),  # at the edges of the image
        ((0, 0, 217, 100), False),  # the crop ends at 238
        ((0, 0, 218, 100), True),
        ((0, 0, 100, 168), True),
        ((25, 30, 100, 100), False),
    ],
)
def test_masks_that_a_crop_cuts(box: tuple[int, int, int, int], cut: bool) -> None:
    crop = Crop(box=(0, 0, 238, 188), layer=1)
    assert is_cut(box, crop, (300, 400)) == cut
    assert not is_cut(box, Crop(box=(0, 0, 400, 300), layer=0), (300, 400))


class Square:
    """Answers each point with a square of 40 pixels around (200, 150) of the image, if it sees it.

    The embedding holds the place and the size of what was encoded.
    """

    def __init__(self) -> None:
        self.points = 0

    def embed(self, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Embedded:
        frame = frame_of((image.shape[0], image.shape[1]), MODEL.preprocess)
        embeddings = np.zeros((1, 256, 64, 64), np.float32)
        # Pixels hold their own place.
        embeddings[0, 0, 0, :2] = image[0, 0, :2]
        embeddings[0, 0, 1, :2] = image.shape[:2]
        return Embedded(frame=frame, sample=Sample(image=image, embeddings=embeddings))

    def run(self, feeds: Feeds) -> Feeds:
        count = len(feeds["point_coords"])
        self.points += count
        left, top = 2 * feeds["image_embeddings"][0, 0, 0, :2]
        scale = 256 / feeds["image_embeddings"][0, 0, 1, :2].max()
        y, x = np.mgrid[0:256, 0:256] / scale
        inside = (abs(x + left - 200) < 20) & (abs(y + top - 150) < 20)
        low_res = np.where(inside, 20, -20).astype(np.float32)
        iou = np.full((count, 4), 0.95, np.float32)
        return {
            "low_res_masks": np.broadcast_to(low_res, (count, 4, 256, 256)),
            "iou_predictions": iou,
        }


def test_masks_of_crops_are_in_the_image() -> None:
    """Found in the whole image and in one crop; the crop's mask remains, being the finer one."""
    size = (400, 500)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    image = np.stack([x // 2, y // 2, 0 * x], axis=2).astype(np.uint8)
    decoder = Square()
    seen: list[tuple[int, int]] = []
    found = generate(
        MODEL,
        decoder,
        decoder.embed(image),
        GridSettings(points_per_side=4, crop_layers=1, crop_overlap=0.0, crop_downscale=2),
        lambda done, total: seen.append((done, total)),
        decoder.embed,
    )
    assert decoder.points == 16 + 4 * 4
    assert seen[-1] == (32, 32)
    (record,) = found
    assert record.crop == (0, 0, 250, 200)
    assert record.box == pytest.approx((181, 131, 219, 169), abs=2)
    assert record.decoded().shape == size


def record(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], score: float) -> MaskRecord:
    size = (mask.shape[0], mask.shape[1])
    box = (0, 0, size[1], size[0])
    made = record_of(mask, (0, 0), size, score=score, stability=0.99, point=(1.0, 1.0), crop=box)
    assert made is not None
    return made


def test_small_regions_of_generated_masks() -> None:
    """A mask with a hole and an island becomes like another one, which is unchanged and stays."""
    clean = np.zeros((60, 80), dtype=np.bool_)
    clean[10:50, 10:60] = True
    rough = clean.copy()
    rough[20:22, 20:22] = False
    rough[5, 70] = True
    other = np.zeros_like(clean)
    other[52:58, 2:30] = True
    other[0, 0] = True
    given = [record(rough, 0.99), record(clean, 0.9), record(other, 0.8)]
    found = automatic_masks.without_small_regions(given, 10, 0.7)
    assert [r.score for r in found] == [0.9, 0.8]
    assert np.array_equal(found[0].decoded(), clean)
    assert found[1].box == (2, 52, 29, 57)
    assert found[1].area == found[1].decoded().sum() == 6 * 28
    assert automatic_masks.without_small_regions([], 10, 0.7) == []
