"""Parity of a model of one graph that finds instances: prompts choose among them on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from effsam_export.imaging import instances, letterbox
from effsam_export.imaging.images import check_prompt, load_image
from effsam_export.parity.comparison import Expected, ExpectedImage, Measured, compare
from effsam_export.parity.metrics import boundary_iou, mask_iou
from effsam_export.parity.results import CaseResult, Picture
from effsam_export.spec.prompts import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.config.parity import ParityImage
    from effsam_export.imaging.instances import Instances
    from effsam_export.parity.comparison import Sides
    from effsam_export.parity.results import ComparisonResult
    from effsam_export.spec.model import ModelSpec
    from effsam_export.util.progress import OnProgress

EVERYTHING = "everything"


def measure(
    model: ModelSpec,
    sides: Sides,
    images: Sequence[ParityImage],
    on_progress: OnProgress | None,
) -> Measured:
    """Both comparison points on every image; every prompt, and all instances, end to end."""
    spec = model.component("segmenter")
    total = sum(len(i.cases) for i in images)
    comparisons: list[ComparisonResult] = []
    cases: list[CaseResult] = []
    pictures: list[Picture] = []
    expected: list[ExpectedImage] = []
    for row in images:
        image = load_image(row.path)
        size = (image.shape[0], image.shape[1])
        for entry in row.cases:
            check_prompt(entry.prompt, size, model.prompts)
        sample = Sample(image=image)
        box = letterbox.fit(size, model.preprocess.image_size, square=True)
        feeds = spec.feeds(model.preprocess, sample)
        outputs = spec.reference(sides.module, sample)
        traced = sides.sources["segmenter"].run(feeds)
        lowered = sides.artifacts["segmenter"].run(feeds)
        name = row.path.stem
        comparisons += [
            compare("onnx", spec, name, outputs, traced),
            compare("artifact", spec, name, traced, lowered),
        ]
        wanted, found = instances.detect(outputs, box), instances.detect(lowered, box)
        cases.append(everything(f"{name}/{EVERYTHING}", wanted, found))
        answers = []
        for entry in row.cases:
            mask, score = instances.mask_of(wanted, entry.prompt)
            other, other_score = instances.mask_of(found, entry.prompt)
            case = f"{name}/{entry.name}"
            cases.append(
                _case(case, mask_iou(mask, other), boundary_iou(mask, other), score - other_score)
            )
            pictures.append(
                Picture(
                    case=case,
                    image=image,
                    points=tuple((p.x, p.y, p.label) for p in entry.prompt.points),
                    box=entry.prompt.box,
                    reference=mask,
                    actual=other,
                )
            )
            answers.append(
                Expected(
                    name=entry.name,
                    prompt=entry.prompt,
                    masks=mask[None],
                    scores=np.asarray([score], dtype=np.float32),
                )
            )
            if on_progress is not None:
                on_progress(sum(len(e.cases) for e in expected) + len(answers), total)
        expected.append(ExpectedImage(name=name, image=image, cases=tuple(answers)))
    return Measured(
        comparisons=tuple(comparisons),
        cases=tuple(cases),
        pictures=tuple(pictures),
        expected=tuple(expected),
    )


def everything(case: str, wanted: Instances, found: Instances) -> CaseResult:
    """All instances at once: the mean over them of the IoU with the best instance of the other.

    Divided by the greater number, so that missing and extra instances count as 0.
    """
    masks = list(found.masks())
    best = [max((mask_iou(m, other) for other in masks), default=0.0) for m in wanted.masks()]
    count = max(len(wanted), len(found))
    mean = sum(best) / count if count else 1.0
    k = min(len(wanted), len(found))
    error = float(np.abs(wanted.scores[:k] - found.scores[:k]).max()) if k else 0.0
    return _case(case, mean, mean, error)


def _case(case: str, iou: float, boundary: float, score_error: float) -> CaseResult:
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
    )
