"""The letterbox: geometry, and OpenCV's fixed-point resize."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from effsam_export.imaging.decode import load_image
from effsam_export.imaging.letterbox import GREY, fit, letterbox, resize_linear
from tests import golden_weights
from tests.sampled import samples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.shared
@pytest.mark.parametrize("variant", ["fastsam_s", "fastsam_x"])
def test_input_equals_the_authors(shared: Path, variant: str) -> None:
    image = load_image(shared / "images" / "truck.jpg")
    boxed, box = letterbox(image, 1024, square=False)
    assert box.size == (704, 1024)
    found = samples(boxed.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    golden = golden_weights.load(variant, shared / "golden")
    for suffix, values in found.items():
        np.testing.assert_array_equal(values, golden.figures[f"photo.input{suffix}"])


@pytest.mark.parametrize("size", [(1200, 1800), (1800, 1200), (333, 1000), (64, 64), (1, 900)])
def test_the_square_holds_the_authors_rectangle(size: tuple[int, int]) -> None:
    square, strided = fit(size, 1024, square=True), fit(size, 1024, square=False)
    assert square.size == (1024, 1024)
    assert (square.scale, square.inner) == (strided.scale, strided.inner)
    assert strided.size[0] % 32 == strided.size[1] % 32 == 0
    x0, y0, x1, y1 = square.framed
    assert (y1 - y0, x1 - x0) == strided.size
    assert strided.framed == (0, 0, strided.size[1], strided.size[0])


def test_padding_is_grey_and_centred() -> None:
    boxed, box = letterbox(np.full((50, 100, 3), 200, np.uint8), 64, square=True)
    assert (box.top, box.left, box.inner) == (16, 0, (32, 64))
    assert (boxed[:16] == GREY).all()
    assert (boxed[16:48] == 200).all()
    assert (boxed[48:] == GREY).all()


@pytest.mark.parametrize("size", [(30, 40), (31, 97), (200, 150)])
def test_resize_is_bilinear_within_a_grey_level(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    wanted = torch.nn.functional.interpolate(planes, size, mode="bilinear")[0].numpy()
    found = resize_linear(image, size).transpose(2, 0, 1)
    assert np.abs(found - wanted).max() <= 1.01


def test_nothing_is_resized_to_its_own_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_linear(image, (9, 7)), image)
