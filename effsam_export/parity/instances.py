"""Comparison of a model of one graph that detects instances, of which a prompt selects some."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging import instances, letterbox
from effsam_export.parity.cases import CaseResult
from effsam_export.parity.comparison import Expected, PromptMeasurement
from effsam_export.parity.confidence import MIN_SCORE
from effsam_export.parity.metrics import boundary_iou, mask_iou
from effsam_export.parity.results import Picture
from effsam_export.parity.slots import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from effsam_export.config.parity import ParityCase
    from effsam_export.imaging.instances import Instances
    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.slots import Call
    from effsam_export.spec.model import ModelSpec

EVERYTHING = "everything"
"""Name of the case that compares all instances of an image."""
CONFIDENT = "confident"
"""Name of the case that compares those that PyTorch is confident of, where these are not all."""
MATCHING_IOU = 0.5
"""An instance that overlaps another one less is not the same one."""


class InstancesImage:
    """The comparisons of one image; those of the graph and of all instances are made at once.

    Args:
        model: Specification of the model.
        sides: The PyTorch model and the opened graphs.
        name: Name of the image.
        calls: The image, RGB uint8 HxWx3, in the calls of the graph.
    """

    def __init__(self, model: ModelSpec, sides: Sides, name: str, calls: tuple[Call, ...]) -> None:
        image = calls[0].images[calls[0].own]
        self._name, self._image = name, image
        size = (image.shape[0], image.shape[1])
        box = letterbox.fit(size, model.preprocess.image_size, square=True)
        encoded = encode(model, model.component("segmenter"), sides, name, calls)
        self.comparisons = encoded.comparisons
        self._expected = instances.detect(encoded.reference, box)
        self._actual = instances.detect(encoded.outputs, box)
        cases = [compare_all(f"{name}/{EVERYTHING}", self._expected, self._actual)]
        count = int(np.count_nonzero(self._expected.scores >= MIN_SCORE))
        if 0 < count < len(self._expected):
            cases.append(compare_confident(f"{name}/{CONFIDENT}", self._expected, self._actual))
        self.cases = tuple(cases)

    def measure(self, case: ParityCase) -> PromptMeasurement:
        """Compare the masks that one prompt selects on the host."""
        name, prompt = f"{self._name}/{case.name}", case.prompt
        expected, score = instances.mask_of(self._expected, prompt)
        actual, actual_score = instances.mask_of(self._actual, prompt)
        return PromptMeasurement(
            comparisons=(),
            expected=Expected(
                name=case.name,
                prompt=prompt,
                masks=expected[None],
                scores=np.asarray([score], dtype=np.float32),
            ),
            result=_case_result(
                name,
                mask_iou(expected, actual),
                boundary_iou(expected, actual),
                score - actual_score,
                score,
            ),
            picture=Picture(
                case=name,
                image=self._image,
                points=tuple((p.x, p.y, p.label) for p in prompt.points),
                box=prompt.box,
                reference=expected,
                actual=actual,
            ),
        )


def compare_all(case: str, expected: Instances, actual: Instances) -> CaseResult:
    """Compare all instances: the mean IoU of each expected one with its best match.

    The sum is divided by the greater number of instances, so that a missing and an extra instance
    count as 0. The score of the result is the lowest of PyTorch's instances, 0 without any.
    """
    best = _best_matches(expected.masks(), list(actual.masks()))
    count = max(len(expected), len(actual))
    mean = sum(best) / count if count else 1.0
    k = min(len(expected), len(actual))
    error = float(np.abs(expected.scores[:k] - actual.scores[:k]).max()) if k else 0.0
    lowest = float(expected.scores.min()) if len(expected) else 0.0
    return _case_result(case, mean, mean, error, lowest)


def compare_confident(case: str, expected: Instances, actual: Instances) -> CaseResult:
    """Compare the instances whose score is at least `MIN_SCORE`: the mean IoU of the best matches.

    A match may have a lower score. An extra instance counts as 0 if its score is at least
    `MIN_SCORE` and it is none of PyTorch's, whatever their scores.

    Args:
        case: Name of the case.
        expected: PyTorch's instances, of which at least one has such a score.
        actual: The artefact's.
    """
    known, found = list(expected.masks()), list(actual.masks())
    count = int(np.count_nonzero(expected.scores >= MIN_SCORE))
    # Instances are sorted by score.
    best = _best_matches(known[:count], found)
    certain = found[: int(np.count_nonzero(actual.scores >= MIN_SCORE))]
    extra = sum(iou < MATCHING_IOU for iou in _best_matches(certain, known))
    mean = sum(best) / (count + extra)
    k = min(count, len(actual))
    error = float(np.abs(expected.scores[:k] - actual.scores[:k]).max()) if k else 0.0
    return _case_result(case, mean, mean, error, float(expected.scores[count - 1]))


def _best_matches(
    masks: Iterable[NDArray[np.bool_]], others: Sequence[NDArray[np.bool_]]
) -> list[float]:
    """Return the IoU of each mask with its best match among the others; 0 if there are none."""
    return [max((mask_iou(m, other) for other in others), default=0.0) for m in masks]


def _case_result(
    case: str, iou: float, boundary: float, score_error: float, score: float
) -> CaseResult:
    return CaseResult(
        case=case,
        mask_iou=(iou,),
        boundary_iou=(boundary,),
        score_error=abs(score_error),
        best=0,
        artifact_best=0,
        score_gap=0.0,
        best_iou=iou,
        user_masks=(0,),
        scores=(score,),
        score_errors=(abs(score_error),),
    )
