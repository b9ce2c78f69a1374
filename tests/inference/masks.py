"""Masks and results of images that tests write, draw and print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging.pixels import Decoded
from effsam_export.inference import found
from effsam_export.inference.run_records import ImageResult, ImageTask, ObjectPrompt
from effsam_export.inference.runner import Prediction
from effsam_export.spec.prompts import Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.inference.found import Box, FoundMask

SIZE = (60, 90)
"""Height and width of the images."""


def filled(
    box: Box | None, size: tuple[int, int] = SIZE
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A mask that fills a box of inclusive corners; empty without one."""
    mask = np.zeros(size, dtype=np.bool_)
    if box is not None:
        mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return mask


def prompted(box: Box | None, number: int = 1, score: float = 0.9) -> FoundMask:
    """The best mask of a prompt."""
    prediction = Prediction(
        masks=filled(box)[None],
        scores=np.asarray([score], np.float32),
        low_res_masks=np.full((1, 8, 8), score, np.float32),
        indices=(2,),
    )
    return found.of_prediction(prediction, number)[0]


def generated(box: Box, score: float = 0.9) -> FoundMask:
    """A mask that was generated at a point."""
    mask = replace(prompted(box, score=score), prompt=None, index=None, logits=None)
    return replace(mask, stability=0.97, point=(float(box[0]), float(box[1])))


def result(masks: Sequence[FoundMask], name: str = "photo") -> ImageResult:
    """A result whose prompts are boxes around the masks."""
    numbers = {m.prompt: m for m in reversed(masks) if m.prompt is not None}
    prompts = tuple(
        ObjectPrompt(prompt=Prompt(box=numbers[n].box or (0, 0, 5, 5))) for n in sorted(numbers)
    )
    return ImageResult(
        task=ImageTask(
            path=Path(f"{name}.jpg"),
            name=name,
            size=SIZE,
            file_name=f"{name}.jpg",
            prompts=prompts,
        ),
        decoded=Decoded(pixels=np.full((*SIZE, 3), 128, dtype=np.uint8)),
        masks=tuple(masks),
        encode_s=0.4121,
        decode_s=0.031,
    )
