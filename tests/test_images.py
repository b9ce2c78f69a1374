"""Photographs of every kind, and coordinates that are the authors' to the pixel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export import images
from effsam_export.errors import ImageError, PromptError
from effsam_export.images import (
    Frame,
    check_prompt,
    frame_of,
    load_image,
    pad,
    prompt_to_model,
    resize,
    resize_bilinear,
    upscale_masks,
)
from effsam_export.models.sam.components import SAM_PREPROCESS
from effsam_export.spec import Point, Prompt, PromptSupport
from tests import golden_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPEN_HINT = "give a JPEG or PNG file that other programs can open"
ORIENTATION = 0x0112
"""The EXIF tag."""


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """2x3, every pixel another colour."""
    return np.arange(0, 180, 10, dtype=np.uint8).reshape(2, 3, 3)


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).transpose(1, 0, 2)),
        (8, lambda x: np.rot90(x)),
    ],
    ids=str,
)
def test_exif_rotation_is_applied(
    tmp_path: Path, pixels: NDArray[np.uint8], orientation: int, turn: Callable[..., object]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png"), turn(pixels))


def picture(mode: str, size: tuple[int, int] = (3, 2)) -> Image.Image:
    """A picture of one grey, 100, in any mode."""
    image = Image.new("RGB", size, (100, 100, 100))
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], 100 * 257, dtype=np.uint16))
    if mode == "RGBA":
        image.putalpha(0)
        return image
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("I;16", "png"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("RGB", "bmp"),
        ("RGB", "webp"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    picture(mode).save(path)
    found = load_image(path)
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), (2, 3, 3))
    np.testing.assert_allclose(found, 100, atol=1)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert load_image(tmp_path / "dot.png").tolist() == [[[1, 2, 3]]]
