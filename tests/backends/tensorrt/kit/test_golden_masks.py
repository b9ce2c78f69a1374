"""The kit prepares images and prompts and computes masks bit for bit like this package."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from effsam_export.backends.tensorrt.kit import golden_masks
from effsam_export.imaging import decode, images, rle
from effsam_export.models import image_sizes
from effsam_export.models.efficient_sam import components as efficient_sam
from effsam_export.models.mobile_sam import MOBILE_SAM
from effsam_export.models.sam import components as sam
from effsam_export.parity.metrics import mask_iou
from effsam_export.spec.prompts import Point, Preprocess, Prompt, Sample
from effsam_export.spec.sizes import document, sides

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.sizes import Size

RNG = np.random.default_rng(0)
SQUASH = efficient_sam.PREPROCESS
SMALL_FRAME = replace(sam.SAM_PREPROCESS, image_size=512)
"""As EfficientViT-SAM-L: sees 512 pixels and is prompted in 1024."""
WIDE = image_sizes.resized(MOBILE_SAM, (640, 768))
RULES = {
    "pad": sam.SAM_PREPROCESS,
    "small": SMALL_FRAME,
    "squash": SQUASH,
    "wide": WIDE.preprocess,
}
SIZES = [(80, 120), (601, 333), (1024, 1024), (1500, 999)]


def low_res_of(rule: Preprocess) -> Size:
    """The size of the masks."""
    return WIDE.masks.low_res_size if rule == WIDE.preprocess else 256


def manifest_of(rule: Preprocess, max_points: int | None = None) -> dict[str, Any]:
    """The parts of a manifest that the kit reads, for a preprocessing rule."""
    squash = rule.family == "squash"
    return {
        "preprocess": {
            "family": rule.family,
            "image_size": document(rule.image_size),
            "pad": None if squash else {"value": list(rule.pixel_mean)},
        },
        "prompts": {
            "coordinates": {"size": document(rule.prompt_size)},
            "padding": {"coordinates": [-1, -1] if squash else [0, 0], "label": -1},
            "supports": {"max_points": max_points},
            "mask_input": None if squash else "low_res_masks of an earlier answer",
        },
        "masks": {
            "low_res_size": document(low_res_of(rule)),
            "threshold": 0.0,
            "resize": ["bicubic (a = -0.75)" if squash else "bilinear to 1024 x 1024"],
        },
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_image_is_bit_exact(rule: Preprocess, size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    found = golden_masks.preprocess(image, manifest_of(rule)["preprocess"])
    wanted = images.encoder_image(image, rule)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


CASES: dict[str, tuple[list[list[float]], tuple[float, ...] | None, bool]] = {
    "point": ([[20, 31, 1]], None, False),
    "points": ([[20.5, 31, 1], [44, 12.25, 1]], None, False),
    "box": ([], (3, 4, 61, 70.5), False),
    "both": ([[20, 31, 1]], (3, 4, 61, 70.5), False),
    "mask": ([[20, 31, 1]], None, True),
}


# EfficientSAM takes no mask.
ASKED = [(r, c) for r in RULES for c in CASES if (r, c) != ("squash", "mask")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "case"), ASKED)
def test_prompts_are_bit_exact(name: str, case: str, size: tuple[int, int]) -> None:
    rule, (points, box, with_mask) = RULES[name], CASES[case]
    squash = rule.family == "squash"
    low = sides(low_res_of(rule))
    mask = RNG.standard_normal(low).astype(np.float32) if with_mask else None
    frame = images.frame_of(size, rule)
    prompt = Prompt(
        points=tuple(Point(x=x, y=y, label=int(n)) for x, y, n in points),
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        mask_input=mask,
    )
    sample = Sample(
        image=np.zeros((*size, 3), np.uint8),
        embeddings=np.zeros((1, 256, 64, 64), np.float32),
        prompt=images.prompt_to_model(prompt, frame),
    )
    pair: ComponentSpec = WIDE.component("decoder") if name == "wide" else sam.SAM_DECODER
    component: ComponentSpec = efficient_sam.DECODER if squash else pair
    wanted = dict(component.feeds(rule, sample))
    del wanted["image_embeddings"]
    manifest = manifest_of(rule, efficient_sam.MAX_POINTS if squash else None)
    entry = {"points": points, "box": box}
    found = golden_masks.decoder_feeds(entry, mask, size, manifest)
    assert found.keys() == wanted.keys()
    for tensor, value in wanted.items():
        assert found[tensor].dtype == value.dtype
        np.testing.assert_array_equal(found[tensor], value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_masks_are_bit_exact(rule: Preprocess, size: tuple[int, int]) -> None:
    logits = RNG.standard_normal((3, *sides(low_res_of(rule)))).astype(np.float32)
    masks = efficient_sam.MASKS if rule.family == "squash" else sam.SAM_MASKS
    wanted = images.upscale_masks(logits, images.frame_of(size, rule), masks) > masks.threshold
    found = golden_masks.upscale(logits, size, manifest_of(rule))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("size", [(7, 5), (300, 411)])
def test_resizes_are_bit_exact(size: tuple[int, int]) -> None:
    x = RNG.standard_normal((2, 64, 48)).astype(np.float32)
    for name in ("resize_bilinear", "resize_bicubic"):
        found, wanted = getattr(golden_masks, name)(x, size), getattr(images, name)(x, size)
        assert found.dtype == wanted.dtype
        assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("first", [True, False])
def test_run_lengths(first: bool) -> None:
    mask = RNG.random((37, 23)) > 0.5
    mask[0, 0] = first
    np.testing.assert_array_equal(golden_masks.decode_rle(rle.encode(mask)), mask)


@pytest.mark.parametrize("counts", [[3], [2, 3], [5, -1]])
def test_invalid_run_lengths_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^the runs of a golden mask do not add up to its size$"):
        golden_masks.decode_rle({"size": [2, 2], "counts": counts})


def test_iou() -> None:
    a, b = (RNG.random((20, 30)) > 0.5 for _ in range(2))
    empty = np.zeros((20, 30), bool)
    for left, right in ((a, b), (a, a), (a, empty), (empty, empty)):
        assert golden_masks.mask_iou(left, right) == mask_iou(left, right)


def test_load_image(photo: Path) -> None:
    np.testing.assert_array_equal(golden_masks.load_image(photo), decode.load_image(photo))


def test_unknown_preprocessing_family_is_refused() -> None:
    with pytest.raises(ValueError, match="does not support the preprocessing family `letterbox`"):
        golden_masks.preprocess(
            np.zeros((4, 4, 3), np.uint8), {"family": "letterbox", "image_size": 8}
        )
