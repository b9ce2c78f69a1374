"""Measurements of the objects from answers, and the results of a bundle from measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.evaluate.answers import agreement
from effsam_export.evaluate.results import SIZES, Measurement, Result
from effsam_export.evaluate.statistics import means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.evaluate.answers import ImageAnswers
    from effsam_export.evaluate.dataset import Dataset
    from effsam_export.evaluate.statistics import Mean


def measurements(
    dataset: Dataset,
    answers: Sequence[ImageAnswers],
    beside: Sequence[ImageAnswers] | None,
    *,
    ranked: bool,
) -> list[Measurement]:
    """Return what was measured of each object.

    Args:
        dataset: The annotated images.
        answers: Those of the bundle, by image.
        beside: Those of the reference; None without one.
        ranked: Whether the model chooses the best of several masks.
    """
    found = []
    for number, image in enumerate(dataset.images):
        pairs = zip(
            answers[number].answers,
            beside[number].answers if beside else [None] * len(answers[number].answers),
            strict=True,
        )
        for answer, other in pairs:
            found.append(
                Measurement(
                    prompt=answer.prompt,
                    image=number,
                    size=image.objects[answer.object].size_class,
                    iou=answer.iou,
                    reference_iou=None if other is None else other.iou,
                    agreement=None if other is None else agreement(answer, other, image.size),
                    same_best=answer.index == other.index if other and ranked else None,
                )
            )
    return found


def results(
    measurements: Sequence[Measurement], prompts: Sequence[str], images: int, seed: int
) -> tuple[Result, ...]:
    """Return the figures of each kind of prompt, for all objects and for those of each size.

    A size without objects is left out.

    Args:
        measurements: Of all objects.
        prompts: Names of the kinds of prompts, in the order of the results.
        images: Number of images.
        seed: Of the bootstrap.
    """
    groups = [
        (
            prompt,
            size,
            [m for m in measurements if m.prompt == prompt and size in ("all", m.size)],
        )
        for prompt in prompts
        for size in SIZES
    ]
    rows = [rows for _, _, rows in groups]
    bundle = _means(rows, [[m.iou for m in row] for row in rows], images, seed)
    compared = [[m for m in row if m.reference_iou is not None] for row in rows]
    lost = [[m.iou - (m.reference_iou or 0.0) for m in row] for row in compared]
    differences = _means(compared, lost, images, seed)
    found = []
    for (prompt, size, row), mean, difference in zip(groups, bundle, differences, strict=True):
        if mean is None:
            continue
        agreements = [m.agreement for m in row if m.agreement is not None]
        same = [m.same_best for m in row if m.same_best is not None]
        found.append(
            Result(
                prompt=prompt,
                size=size,
                objects=mean.count,
                miou=mean.value,
                interval=mean.interval,
                reference_miou=_mean([m.reference_iou for m in row if m.reference_iou is not None]),
                difference=None if difference is None else difference.value,
                difference_interval=None if difference is None else difference.interval,
                agreement=_mean(agreements),
                min_agreement=min(agreements, default=None),
                best_mask_changes=_mean([float(not s) for s in same]),
            )
        )
    return tuple(found)


def _means(
    rows: Sequence[Sequence[Measurement]],
    values: Sequence[Sequence[float]],
    images: int,
    seed: int,
) -> list[Mean | None]:
    """Return the mean of the values of each group."""
    sums, counts = np.zeros((images, len(rows))), np.zeros((images, len(rows)), dtype=np.int64)
    for group, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        places = [m.image for m in row]
        np.add.at(sums[:, group], places, numbers)
        np.add.at(counts[:, group], places, 1)
    return means(sums, counts, seed)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
