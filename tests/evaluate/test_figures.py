"""Figures computed by hand for three objects, through the masks of a given segmenter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pycocotools")

from effsam_export.evaluate import coco
from effsam_export.evaluate.answers import ImageAnswers, agreement, answers_of
from effsam_export.evaluate.figures import measurements, results
from effsam_export.evaluate.prompts import parse_kinds
from tests.evaluate.annotated import Given, annotation, document, mask_of, ticking, write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.evaluate.dataset import Dataset

BOX = parse_kinds("box")
OBJECTS = ((0, 0, 4, 3), (20, 10, 40, 40), (50, 20, 10, 10))
"""12, 1600 and 100 pixels: small, medium and small."""
BUNDLE = (
    mask_of(0, 0, 4, 2) | mask_of(10, 0, 4, 1),  # 8 of 12 pixels and 4 others: 8 / 16
    mask_of(20, 10, 40, 20),  # half: 800 / 1600
    mask_of(50, 20, 10, 10),  # all: 1
)
PYTORCH = (
    mask_of(0, 0, 4, 3),  # 1; with the bundle's 8 / 16
    mask_of(20, 10, 40, 30),  # 1200 / 1600; with the bundle's 800 / 1200
    mask_of(0, 0, 0, 0),  # 0; with the bundle's 0
)


def answered(
    folder: Path, masks: Sequence[NDArray[np.bool_]], index: int = 1
) -> tuple[Dataset, list[ImageAnswers]]:
    """Ask for the three objects, which are in two images."""
    content = document(
        annotation(1, 1, OBJECTS[0]),
        annotation(2, 1, OBJECTS[1]),
        annotation(3, 2, OBJECTS[2]),
        images=2,
    )
    dataset = coco.load(write(folder, content), folder)
    given = Given(masks, index)
    found = [answers_of(given, i, "0" * 64, BOX, 0, ticking(0.5)) for i in dataset.images]
    assert given.images == 2
    return dataset, found


def test_the_mean_iou_of_three_objects(tmp_path: Path) -> None:
    dataset, answers = answered(tmp_path, BUNDLE)
    found = measurements(dataset, answers, None, ranked=True)
    assert [m.iou for m in found] == [0.5, 0.5, 1.0]
    assert [m.size for m in found] == ["small", "medium", "small"]
    whole, small, medium = results(found, ["box"], 2, seed=0)
    assert (whole.size, whole.objects) == ("all", 3)
    assert whole.miou == pytest.approx(2 / 3)
    assert (small.size, small.objects, small.miou) == ("small", 2, 0.75)
    assert (medium.size, medium.objects, medium.miou, medium.interval) == ("medium", 1, 0.5, None)
    # Two images with the means 0.5 and 1: draws give these two, or both.
    assert small.interval == (0.5, 1.0)
    assert (whole.reference_miou, whole.agreement, whole.best_mask_changes) == (None, None, None)


def test_the_reference_beside_it(tmp_path: Path) -> None:
    dataset, answers = answered(tmp_path, BUNDLE)
    _, beside = answered(tmp_path, PYTORCH, index=2)
    beside[1] = answered(tmp_path, PYTORCH)[1][1]
    found = measurements(dataset, answers, beside, ranked=True)
    whole, small, medium = results(found, ["box"], 2, seed=0)
    assert whole.reference_miou == pytest.approx(1.75 / 3)
    assert whole.difference == pytest.approx(2 / 3 - 1.75 / 3)
    assert whole.agreement == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert whole.min_agreement == 0
    # The first two masks of PyTorch are another output of the decoder.
    assert whole.best_mask_changes == pytest.approx(2 / 3)
    assert (small.difference, medium.difference) == (0.25, -0.25)
    assert small.difference_interval == (-0.5, 1.0)
    one_mask = measurements(dataset, answers, beside, ranked=False)
    assert results(one_mask, ["box"], 2, seed=0)[0].best_mask_changes is None


def test_two_empty_masks_agree(tmp_path: Path) -> None:
    empty = mask_of(0, 0, 0, 0)
    _, found = answered(tmp_path, (empty, empty, empty))
    first, second = found[0].answers
    assert agreement(first, second, (80, 120)) == 1


def test_answers_are_the_same_after_json_and_only_calls_are_timed(tmp_path: Path) -> None:
    _, found = answered(tmp_path, BUNDLE)
    first = found[0]
    assert ImageAnswers.of(json.loads(json.dumps(first.document()))) == first
    # The image and two prompts take half a second each.
    assert first.seconds == pytest.approx(1.5)
