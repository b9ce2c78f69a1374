"""Image files of every kind; frames and coordinates equal to the authors'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from effsam_export.imaging.images import (
    Frame,
    encoder_image,
    frame_of,
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
