"""Check the golden vectors of a bundle, and what the graphs answer to their prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import CheckFailed, PromptError
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.backends import Session
    from effsam_export.bundle.golden import Golden, GoldenCase
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import Gates
    from effsam_export.spec.tensors import Float32


@dataclass(frozen=True, kw_only=True)
class GoldenResult:
    """The outputs for one golden prompt.

    Attributes:
        mask_iou, score_error: Minimum IoU and maximum score error of the compared masks; None if
            no mask of the prompt is compared.
        not_compared: Number of masks that are not, because PyTorch is not confident of them.
    """

    case: str
    mask_iou: float | None
    score_error: float | None
    not_compared: int = 0


def vector_failures(model: ModelSpec, vectors: Golden, precision: str) -> list[str]:
    """Return a sentence for each golden vector that no export of the model can have written.

    Args:
        model: The registered model with the bundle's options.
        vectors: The golden vectors.
        precision: Precision of the bundle.
    """
    from effsam_export.bundle.golden_write import comparison_marks, user_mask_indices
    from effsam_export.imaging.images import check_prompt

    failures = []
    size = (int(vectors.image.shape[0]), int(vectors.image.shape[1]))
    low = sides(model.masks.low_res_size)
    count = 1 if model.finds_instances else 1 + max((*model.masks.single, *model.masks.multimask))
    for case in vectors.cases:
        where = f"golden {case.name}"
        if case.scores.size < count:
            failures.append(f"{where}: {case.scores.size} masks, the model has {count}")
        elif list(case.answers) != (wanted := user_mask_indices(model, case.scores)):
            failures.append(
                f"{where}: `answers` is {list(case.answers)}, want {wanted}, which the scores give"
            )
        elif (marks := case.marks) is not None:
            right = comparison_marks(model, case.scores, marks.stability, precision)
            found = {
                "compared": list(marks.compared),
                "best_may_change": marks.best_may_change,
            }
            failures += [
                f"{where}: `{key}` is {found[key]}, want {right[key]}, which the scores and the "
                "stability give"
                for key in found
                if found[key] != right[key]
            ]
            if not (marks.stability or model.finds_instances):
                failures.append(f"{where}: `stability` is empty, want {count} values")
        try:
            check_prompt(case.prompt, size, model.prompts)
        except PromptError as error:
            failures.append(f"{where}: {error.message}")
        earlier = case.prompt.mask_input
        if earlier is not None and earlier.shape != low:
            failures.append(f"{where}: `mask_input` is {list(earlier.shape)}, want {list(low)}")
    return failures


def run(
    model: ModelSpec, sessions: Mapping[str, Session], vectors: Golden
) -> tuple[GoldenResult, ...]:
    """Run the graphs on every golden prompt and compare the masks and scores.

    Args:
        model: The registered model with the bundle's options.
        sessions: An opened artefact for each component of the model.
        vectors: The golden vectors, without failures.

    Raises:
        CheckFailed: A runtime cannot run its graph.
    """
    import numpy as np

    from effsam_export.imaging.images import upscale_masks
    from effsam_export.inference import runner
    from effsam_export.parity.metrics import mask_iou

    if model.finds_instances:
        return _run_instances(model, sessions["segmenter"], vectors)
    embedded = runner.embed(model, sessions["encoder"], vectors.image)
    results = []
    for case in vectors.cases:
        outputs = model.masks.of(
            sessions["decoder"].run(runner.decoder_feeds(model, embedded, case.prompt))
        )
        scores, low_res = outputs[model.masks.score][0], outputs["low_res_masks"][0]
        if scores.shape != case.scores.shape:
            raise CheckFailed(
                f"golden {case.name}: {case.scores.size} scores, the graph gives {scores.size}"
            )
        masks = upscale_masks(low_res, embedded.frame, model.masks) > model.masks.threshold
        ious = [mask_iou(case.masks[i], masks[i]) for i in case.compared]
        finite = bool(np.isfinite(low_res).all())
        results.append(_result(case, ious if finite else [math.nan], scores))
    return tuple(results)


def _run_instances(
    model: ModelSpec, segmenter: Session, vectors: Golden
) -> tuple[GoldenResult, ...]:
    """Do the same for a model that detects instances, with one mask for each prompt."""
    from effsam_export.inference import runner
    from effsam_export.parity.metrics import mask_iou

    detections = runner.find_instances(model, segmenter, vectors.image)
    results = []
    for case in vectors.cases:
        selected = runner.select_instance(model, detections, case.prompt)
        ious = [mask_iou(case.masks[i], selected.masks[i]) for i in case.compared]
        results.append(_result(case, ious, selected.scores))
    return tuple(results)


def _result(case: GoldenCase, ious: list[float], scores: Float32) -> GoldenResult:
    """Return the result of a prompt; NaN is in it even if no mask is compared."""
    error = case.score_error(scores)
    return GoldenResult(
        case=case.name,
        mask_iou=min(ious, default=None),
        score_error=error if case.compared or math.isnan(error) else None,
        not_compared=case.not_compared,
    )


def result_failures(results: tuple[GoldenResult, ...], gates: Gates) -> list[str]:
    """Return a sentence for each result that misses the gates, NaN included."""
    failures = []
    for r in results:
        if r.mask_iou is not None and not r.mask_iou >= gates.mask_iou:
            failures.append(f"golden {r.case}: mask IoU {r.mask_iou:.6f}, want {gates.mask_iou:g}")
        if r.score_error is not None and not r.score_error <= gates.score_error:
            failures.append(
                f"golden {r.case}: score off by {r.score_error:.2e}, "
                f"want at most {gates.score_error:g}"
            )
    return failures
