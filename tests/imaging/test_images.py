"""Image files of every kind; frames and coordinates equal to the authors'."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from effsam_export.errors import ImageError
from effsam_export.imaging import images
from effsam_export.imaging.images import (
    Frame,
    encoder_image,
    frame_of,
    load_image,
    pad,
    prompt_to_model,
    resize,
    resize_bicubic,
    resize_bilinear,
    stability,
    upscale_masks,
)
from effsam_export.models.sam.components import SAM_MASKS, SAM_PREPROCESS
from effsam_export.spec.prompts import Point, Preprocess, Prompt
from tests import golden_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

OPEN_HINT = "check that it is an intact JPEG or PNG file"
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
    # Workers compare names of tests; a function's has its address in it.
    ids=map(str, range(1, 9)),
)
def test_exif_rotation_is_applied(
    tmp_path: Path, pixels: NDArray[np.uint8], orientation: int, turn: Callable[..., object]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "photo.png"), turn(pixels))


def picture(mode: str) -> Image.Image:
    """A picture 3x2 of one grey, 100, in any mode."""
    if mode == "I;16":
        return Image.fromarray(np.full((2, 3), 100 * 256 + 7, dtype=np.uint16))
    if mode == "RGBA":
        return Image.new("RGBA", (3, 2), (100, 100, 100, 0))
    if mode == "P":
        image = Image.new("P", (3, 2), 1)
        image.putpalette([0, 0, 0, 100, 100, 100])
        image.info["transparency"] = b"\x00\x10"
        return image
    return Image.new("RGB", (3, 2), (100, 100, 100)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("P", "png"),
        ("I;16", "png"),
        ("I;16", "tif"),
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


def test_image_of_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    assert load_image(tmp_path / "dot.png").tolist() == [[[1, 2, 3]]]


def refusal(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    return caught.value


def test_missing(tmp_path: Path) -> None:
    error = refusal(tmp_path / "no.jpg")
    assert error.message == f"image `{tmp_path / 'no.jpg'}` does not exist"
    assert error.hint == "give the path of a JPEG or PNG file"


def test_directory(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.message == f"image `{tmp_path}` is a directory"
    assert error.hint == "give the path of a JPEG or PNG file"


@pytest.mark.parametrize("content", [b"", b"hello\n"], ids=["empty", "text"])
def test_file_that_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    error = refusal(path)
    assert (
        error.message == f"image `{path}` cannot be read: cannot identify image file {str(path)!r}"
    )
    assert error.hint == OPEN_HINT


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    error = refusal(path)
    assert error.message.startswith(f"image `{path}` cannot be read: ")
    assert error.hint == OPEN_HINT


@pytest.mark.parametrize("pillow_limit", [4, 1000], ids=["pillow warns", "pillow is content"])
def test_too_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pillow_limit: int
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    path = tmp_path / "photo.png"
    picture("RGB").save(path)
    error = refusal(path)
    assert error.message == f"image `{path}` has 3x2 pixels, over the limit of 4"
    assert error.hint == "resize it first"


def test_far_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    path = tmp_path / "photo.png"
    picture("RGB").save(path)
    assert refusal(path).message.startswith(f"image `{path}` cannot be read: Image size (6 pixels)")


def test_floating_point_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    Image.fromarray(np.full((2, 3), 0.5, dtype=np.float32)).save(path)
    error = refusal(path)
    assert error.message == f"image `{path}` has floating-point pixels"
    assert error.hint == "convert it to 8 bits first"


# ------------------------------------------------------------------ sizes and coordinates


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(tuple(a), tuple(b)) for a, b in golden_weights.load("vit_t").manifest["preprocess_shapes"]],
    ids=str,
)
def test_frame_sizes_equal_the_authors(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert frame_of(size, SAM_PREPROCESS) == Frame(
        original=size, resized=wanted, image_size=1024, prompt=wanted, prompt_size=1024
    )


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)], ids=str)
def test_an_extreme_aspect_ratio_keeps_one_pixel(size: tuple[int, int]) -> None:
    assert min(frame_of(size, SAM_PREPROCESS).resized) == 1


def test_resize_gives_the_frame() -> None:
    frame = frame_of((33, 47), SAM_PREPROCESS)
    found = resize(np.full((33, 47, 3), 9, dtype=np.uint8), frame.resized)
    assert (found.shape, found.dtype) == ((*frame.resized, 3), np.dtype(np.uint8))
    assert (found == 9).all()


def test_padding_is_zero_after_normalisation() -> None:
    image = pad(np.full((600, 1024, 3), 7, dtype=np.uint8), SAM_PREPROCESS)
    assert (image.shape, image.dtype) == ((1, 3, 1024, 1024), np.dtype(np.float32))
    mean, std = (
        np.asarray(v, dtype=np.float32)[:, None, None]
        for v in (SAM_PREPROCESS.pixel_mean, SAM_PREPROCESS.pixel_std)
    )
    normalised = (image[0] - mean) / std
    assert (normalised[:, 600:] == 0).all()
    assert (image[0, :, :600] == 7).all()


@pytest.mark.parametrize(
    "size", [(1, 1), (333, 1000), (1000, 333), (1023, 1024), (1201, 1801), (3, 4000)], ids=str
)
def test_coordinates_return_from_the_model_frame(size: tuple[int, int]) -> None:
    frame = frame_of(size, SAM_PREPROCESS)
    back = replace(frame, original=frame.prompt, prompt=frame.original)
    h, w = size
    prompt = Prompt(
        points=(Point(x=0, y=0), Point(x=w - 1, y=h - 1, label=0), Point(x=w / 3, y=h / 7)),
        box=(0, 0, w, h),
    )
    there = prompt_to_model(prompt, frame)
    assert there.box == pytest.approx((0, 0, frame.resized[1], frame.resized[0]))
    again = prompt_to_model(there, back)
    assert again.box == pytest.approx(prompt.box, abs=1e-9)
    for found, wanted in zip(again.points, prompt.points, strict=True):
        assert (found.x, found.y) == pytest.approx((wanted.x, wanted.y), abs=1e-9)
        assert found.label == wanted.label


def test_mask_input_is_not_changed() -> None:
    mask = np.ones((256, 256), dtype=np.float32)
    moved = prompt_to_model(Prompt(mask_input=mask), frame_of((30, 40), SAM_PREPROCESS))
    assert moved.mask_input is mask


# ------------------------------------------------------------------ masks back


@pytest.mark.backend
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((256, 256), (1024, 1024)),
        ((683, 1024), (1200, 1800)),
        ((1024, 683), (333, 221)),
        ((7, 5), (101, 33)),
        ((5, 7), (1, 1)),
        ((1, 1), (3, 4)),
        ((9, 9), (9, 9)),
    ],
    ids=str,
)
def test_resize_bilinear_is_torchs(old: tuple[int, int], new: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    x = golden_weights.generator(1).standard_normal((2, *old)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(x)[None], new, mode="bilinear", align_corners=False
    )
    found = resize_bilinear(x, new)
    assert found.dtype == np.float32
    # A CPU without fused multiply-add puts torch's samples up to 1e-4 of a pixel elsewhere.
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=5e-4)


@pytest.mark.backend
@pytest.mark.parametrize("size", [(1200, 1800), (801, 333), (64, 64)], ids=str)
def test_upscaling_is_the_authors_two_steps(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    frame = frame_of(size, SAM_PREPROCESS)
    low_res = golden_weights.generator(2).standard_normal((3, 256, 256)).astype(np.float32)
    h, w = frame.resized
    full = torch.nn.functional.interpolate(
        torch.from_numpy(low_res)[None], (1024, 1024), mode="bilinear", align_corners=False
    )
    wanted = torch.nn.functional.interpolate(
        full[..., :h, :w], size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(
        upscale_masks(low_res, frame, SAM_MASKS), wanted[0].numpy(), atol=5e-4
    )


# ------------------------------------------------------------------ the other families

L0 = Preprocess(
    family="longest-side-pad",
    image_size=512,
    prompt_size=1024,
    pixel_mean=SAM_PREPROCESS.pixel_mean,
    pixel_std=SAM_PREPROCESS.pixel_std,
)
SQUASH = replace(SAM_PREPROCESS, family="squash")
LETTERBOX = replace(SAM_PREPROCESS, family="letterbox")


def test_image_and_prompt_frames_of_512_and_1024() -> None:
    frame = frame_of((1200, 1800), L0)
    assert (frame.resized, frame.prompt) == ((341, 512), (683, 1024))
    moved = prompt_to_model(Prompt(points=(Point(x=900, y=600),)), frame)
    assert (moved.points[0].x, moved.points[0].y) == (512, 600 * 683 / 1200)
    image = np.full((1200, 1800, 3), 7, dtype=np.uint8)
    assert encoder_image(image, L0).shape == (1, 3, 512, 512)


@pytest.mark.backend
def test_squash_is_torchs_interpolation_without_antialiasing() -> None:
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(3).integers(0, 256, (90, 1500, 3), dtype=np.uint8)
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    wanted = torch.nn.functional.interpolate(planes, (1024, 1024), mode="bilinear")
    np.testing.assert_allclose(encoder_image(image, SQUASH), wanted.numpy(), atol=1e-4)


def test_squash_scales_each_axis_separately() -> None:
    frame = frame_of((100, 400), SQUASH)
    moved = prompt_to_model(Prompt(box=(40, 10, 400, 100)), frame)
    assert moved.box == (102.4, 102.4, 1024, 1024)


def test_letterbox_centres_on_grey() -> None:
    image = np.full((100, 200, 3), 255, dtype=np.uint8)
    boxed = encoder_image(image, LETTERBOX)
    assert boxed.shape == (1, 3, 1024, 1024)
    assert (boxed[0, :, :256] == 114).all()
    assert (boxed[0, :, 256:768] == 255).all()
    assert (boxed[0, :, 768:] == 114).all()


def test_letterbox_prompts_are_in_image_pixels() -> None:
    frame = frame_of((100, 200), LETTERBOX)
    prompt = Prompt(points=(Point(x=150, y=20),))
    assert prompt_to_model(prompt, frame) == prompt


@pytest.mark.backend
@pytest.mark.parametrize("size", [(300, 500), (100, 700), (20, 33), (64, 64)])
def test_bicubic_is_torchs(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    low_res = np.random.default_rng(1).standard_normal((2, 64, 64)).astype(np.float32) * 8
    wanted = torch.nn.functional.interpolate(torch.from_numpy(low_res)[None], size, mode="bicubic")
    np.testing.assert_allclose(resize_bicubic(low_res, size), wanted[0].numpy(), atol=1e-4)


def test_bicubic_masks_are_resized_directly_to_the_image() -> None:
    low_res = np.random.default_rng(1).standard_normal((3, 256, 256)).astype(np.float32)
    found = upscale_masks(
        low_res, frame_of((40, 90), SQUASH), replace(SAM_MASKS, upscale="bicubic")
    )
    np.testing.assert_array_equal(found, resize_bicubic(low_res, (40, 90)))


def test_stability_is_the_iou_of_two_thresholds() -> None:
    logits = np.array([[-3.0, -1.0, -0.9, 0.5], [1.0, 1.1, 2.0, 9.0]], dtype=np.float32)
    assert stability(logits, 0.0) == 3 / 6  # Neither 1 nor -1 itself is beyond its bound.
    assert stability(logits, 1.0) == 1 / 5
    assert stability(logits, 0.0, 3.0) == 1 / 7
    assert stability(logits - 99, 0.0) == 0.0
