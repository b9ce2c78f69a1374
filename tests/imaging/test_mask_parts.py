"""A part of a mask's logits: bit for bit those of the whole, and nothing of the mask outside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest

from effsam_export.imaging.images import frame_of, stability, upscale_masks
from effsam_export.imaging.mask_parts import PartUpscaler
from effsam_export.models.sam.components import SAM_MASKS, SAM_PREPROCESS
from tests.golden_weights import generator

if TYPE_CHECKING:
    from effsam_export.spec.tensors import Float32

SIZES = [(300, 450), (1200, 340), (61, 1500), (1024, 1024), (2000, 1999), (1, 40)]
LEAST = -1.0


def smooth(seed: int, *, level: float = 0.0) -> Float32:
    """Logits of a few hills, 256x256, as a decoder's."""
    rng = generator(seed)
    coarse = rng.standard_normal((6, 6)).astype(np.float32) * 12
    at = np.linspace(0, 5, 256)
    low = np.minimum(at.astype(int), 4)
    part = (at - low).astype(np.float32)
    rows = coarse[low] * (1 - part[:, None]) + coarse[low + 1] * part[:, None]
    hills: Float32 = rows[:, low] * (1 - part) + rows[:, low + 1] * part + np.float32(level)
    return hills


def spot(x: int, y: int, *, value: float = 5.0) -> Float32:
    """Logits with one cell above the rest."""
    logits = np.full((256, 256), -20, dtype=np.float32)
    logits[y, x] = value
    return logits


def check(low_res: Float32, size: tuple[int, int]) -> float:
    """Compare a part with the whole; returns its share of the image."""
    frame = frame_of(size, SAM_PREPROCESS)
    whole = upscale_masks(low_res[None], frame, SAM_MASKS)[0]
    part = PartUpscaler(frame, SAM_MASKS).upscale(low_res, LEAST)
    rest = whole > LEAST
    if part is None:
        assert not rest.any()
        return 0.0
    (x, y), (h, w) = part.origin, part.logits.shape
    np.testing.assert_array_equal(part.logits, whole[y : y + h, x : x + w])
    rest[y : y + h, x : x + w] = False
    assert not rest.any()
    assert stability(part.logits, 0.0) == stability(whole, 0.0)
    return float(part.logits.size / whole.size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_hills(size: tuple[int, int]) -> None:
    shares = [check(smooth(seed, level=level), size) for seed in range(3) for level in (-9, 0, 9)]
    assert max(shares) > 0.5


@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
def test_one_cell(size: tuple[int, int]) -> None:
    height, width = (max(1, side * 256 // max(size)) for side in size)
    places = [(0, 0), (width - 1, height - 1), (width // 2, height // 3)]
    assert max(check(spot(x, y), size) for x, y in places) < 0.2


def test_cells_in_the_padding_are_no_part_of_the_image() -> None:
    assert check(spot(200, 255), (300, 450)) == 0
    # The last row of the image lies between a cell inside and one in the padding.
    assert check(spot(200, 171), (300, 450)) > 0


def test_nothing_above() -> None:
    assert check(spot(9, 9, value=-1.5), (300, 450)) == 0


def test_values_at_the_limit_are_computed() -> None:
    """Rounding may lift a pixel between two equal logits above both."""
    level = np.full((256, 256), LEAST, dtype=np.float32)
    frame = frame_of((300, 450), SAM_PREPROCESS)
    part = PartUpscaler(frame, SAM_MASKS).upscale(level, LEAST)
    assert part is not None
    assert part.logits.shape == (300, 450)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_resized_in_full(fault: float) -> None:
    low_res = spot(40, 40)
    low_res[10, 10] = fault
    frame = frame_of((300, 450), SAM_PREPROCESS)
    with np.errstate(invalid="ignore"):
        part = PartUpscaler(frame, SAM_MASKS).upscale(low_res, LEAST)
        whole = upscale_masks(low_res[None], frame, SAM_MASKS)[0]
    assert part is not None
    np.testing.assert_array_equal(part.logits, whole)


@pytest.mark.parametrize("rule", ["bicubic", "corner"])
def test_other_rules_resize_the_whole_mask(rule: Literal["bicubic", "corner"]) -> None:
    masks = replace(SAM_MASKS, upscale=rule)
    frame = frame_of((300, 450), SAM_PREPROCESS)
    part = PartUpscaler(frame, masks).upscale(smooth(1), LEAST)
    assert part is not None
    assert part.origin == (0, 0)
    np.testing.assert_array_equal(part.logits, upscale_masks(smooth(1)[None], frame, masks)[0])
