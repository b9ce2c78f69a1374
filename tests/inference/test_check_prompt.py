"""Wrong prompts are refused before inference, with all reasons in one error."""

from __future__ import annotations

import numpy as np
import pytest

from effsam_export.errors import PromptError
from effsam_export.imaging.images import check_prompt
from effsam_export.spec.prompts import Point, Prompt, PromptSupport


def test_one_error_lists_all_problems_of_a_prompt() -> None:
    prompt = Prompt(
        points=(Point(x=-1, y=5), Point(x=3, y=20, label=2), Point(x=40.5, y=0, label=0)),
        box=(5, 5, 5, 9),
        mask_input=np.zeros((256, 256), dtype=np.float32),
    )
    support = PromptSupport(negative_points=False, box=False, mask=False, max_points=2)
    with pytest.raises(PromptError) as caught:
        check_prompt(prompt, (20, 30), support)
    assert caught.value.message == (
        "point (-1, 5) is outside the image of 30x20 pixels; "
        "point (3, 20) is outside the image of 30x20 pixels; "
        "label 2 of a point is neither 1 (on) nor 0 (off the object); "
        "point (40.5, 0) is outside the image of 30x20 pixels; "
        "box (5, 5, 5, 9) is empty: want x0 < x1, y0 < y1; "
        "this model takes no background points; "
        "this model takes 2 points, a box counting as two, not 5; "
        "this model takes no box; "
        "this model takes no mask"
    )
    assert caught.value.hint == (
        "x runs from 0 to 29, y from 0 to 19, in pixels of the original image"
    )


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(), "there is no point and no box"),
        (
            Prompt(mask_input=np.zeros((256, 256), dtype=np.float32)),
            "there is no point and no box",
        ),
        (
            Prompt(points=(Point(x=30, y=0),)),
            "point (30, 0) is outside the image of 30x20 pixels",
        ),
        (
            Prompt(points=(Point(x=float("nan"), y=0),)),
            "point (nan, 0) is outside the image of 30x20 pixels",
        ),
        (Prompt(box=(9, 1, 5, 9)), "box (9, 1, 5, 9) is empty: want x0 < x1, y0 < y1"),
        (Prompt(box=(30, 1, 35, 9)), "box (30, 1, 35, 9) is outside the image of 30x20 pixels"),
        (Prompt(box=(0, 0, float("inf"), 9)), "box (0, 0, inf, 9) is not finite"),
        (Prompt(box=(0, 0, float("nan"), 9)), "box (0, 0, nan, 9) is not finite"),
    ],
    ids=["nothing", "mask alone", "edge", "nan", "reversed", "box off", "infinite box", "nan box"],
)
def test_refused_prompt(prompt: Prompt, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        check_prompt(prompt, (20, 30), PromptSupport())
    assert caught.value.message == message


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(points=(Point(x=0, y=0), Point(x=29.9, y=19.9, label=0))),
        Prompt(box=(-5, -5, 35, 25)),
        Prompt(points=(Point(x=1, y=1),), mask_input=np.zeros((256, 256), dtype=np.float32)),
    ],
    ids=["corners", "box over the edge", "mask"],
)
def test_valid_prompt(prompt: Prompt) -> None:
    check_prompt(prompt, (20, 30), PromptSupport())
