"""Overlays of several objects: a colour and a number for each."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.inference import outputs, overlay_objects
from effsam_export.inference.overlay_many import colour
from effsam_export.inference.overlay_objects import DrawnObject
from effsam_export.spec.prompts import Point, Prompt
from tests.inference.masks import SIZE, filled, generated, prompted, result

LEFT, RIGHT, SMALL = (5, 10, 24, 39), (50, 10, 80, 50), (8, 22, 12, 36)
GREY = 128


def tint(number: int) -> list[int]:
    """What the colour of a prompt makes of grey: two fifths of it."""
    return [round(0.6 * GREY + 0.4 * channel) for channel in colour(number - 1)]


def test_objects_that_touch_have_different_colours() -> None:
    drawn = outputs.drawn(result([prompted(LEFT, 1), prompted(RIGHT, 2)])).astype(int)
    assert np.abs(drawn[30, 15] - tint(1)).max() <= 1
    assert np.abs(drawn[40, 65] - tint(2)).max() <= 1
    assert (drawn[58, 40] == GREY).all()


def test_the_smaller_object_is_on_top_in_either_order() -> None:
    for first, second in ((SMALL, LEFT), (LEFT, SMALL)):
        masks = [prompted(first, 1), prompted(second, 2)]
        drawn = outputs.drawn(result(masks)).astype(int)
        number = 1 if first == SMALL else 2
        alone = outputs.drawn(result([prompted(RIGHT, 3 - number), prompted(SMALL, number)]))
        # Painted over the tint of the larger one.
        assert (drawn[22, 8:13] == alone[22, 8:13]).all()
        assert (drawn[30, 10] != drawn[30, 20]).any()


@pytest.mark.parametrize("numbers", [(1, 2), (12, 345)])
def test_numbers_are_written_in_the_image(numbers: tuple[int, int]) -> None:
    """Also for an object in the corner, whose label has to move."""
    image = np.full((*SIZE, 3), GREY, dtype=np.uint8)
    objects = [
        DrawnObject(
            number=number,
            found=prompted(None, number),
            prompt=Prompt(points=(Point(x=x, y=y),)),
        )
        for number, x, y in zip(numbers, (40, 89), (20, 59), strict=True)
    ]
    drawn = overlay_objects.draw(image, objects)
    for item in objects:
        assert (drawn == colour(item.number - 1)).all(axis=2).sum() > 20


def test_a_single_prompt_looks_as_ever() -> None:
    """Blue, and without a number."""
    drawn = outputs.drawn(result([prompted(RIGHT)])).astype(int)
    blue = [round(0.6 * GREY + 0.4 * channel) for channel in (30, 120, 255)]
    assert np.abs(drawn[40, 65] - blue).max() <= 1


def test_generated_masks_are_drawn() -> None:
    drawn = outputs.drawn(result([generated(LEFT), generated(RIGHT)]))
    changed = (drawn != GREY).any(axis=2)
    assert np.array_equal(changed, filled(LEFT) | filled(RIGHT))


def test_boxes_far_outside_the_image() -> None:
    image = np.full((*SIZE, 3), GREY, dtype=np.uint8)
    far = Prompt(box=(-1e9, -1e9, 1e9, 1e9))
    drawn = overlay_objects.draw(
        image, [DrawnObject(number=1, found=prompted(None), prompt=far)] * 2
    )
    assert drawn.shape == image.shape
