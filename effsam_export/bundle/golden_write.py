"""Write the golden vectors of a bundle: an image, prompts, and PyTorch's masks and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from effsam_export.imaging import rle
from effsam_export.parity.confidence import SCORE_GAPS, confident_masks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.parity.check import ParityResult
    from effsam_export.parity.comparison import Expected, ExpectedImage
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import TargetProfile
    from effsam_export.spec.tensors import Float32


def document(
    folder: Path, model: ModelSpec, target: TargetProfile, parity: ParityResult
) -> dict[str, Any]:
    """Write the files beside `golden.json`, and return its content.

    Args:
        folder: New folder for the files. The image is a PNG file, because every decoder gives its
            exact pixels.
        model: The exported model.
        target: The target, whose gates become the tolerances.
        parity: The parity check, in which some masks may not have decided.
    """
    folder.mkdir()
    confident = None
    if not parity.report.all_masks_decide:
        confident = _with_confident_mask(model, parity.expected)
    image = confident or parity.expected[0]
    Image.fromarray(image.image).save(folder / "image.png", optimize=True)
    cases = []
    for case in image.cases:
        prompt, mask_file = case.prompt, None
        if prompt.mask_input is not None:
            mask_file = f"{case.name}.mask_input.npy"
            np.save(folder / mask_file, prompt.mask_input)
        entry = {
            "name": case.name,
            "points": [[p.x, p.y, p.label] for p in prompt.points],
            "box": None if prompt.box is None else list(prompt.box),
            "mask_input": mask_file,
            "answers": user_mask_indices(model, case.scores),
            "masks": [rle.encode(m) for m in case.masks],
            "scores": [float(s) for s in case.scores],
        }
        if confident is not None:
            marks = comparison_marks(model, case.scores, case.stability, target.precision)
            entry |= {"stability": list(case.stability), **marks}
        cases.append(entry)
    return {
        "image": "image.png",
        "frame": "original image pixels, x y",
        "masks": "per case, one uncompressed COCO RLE per mask of the decoder, in graph order",
        "tolerances": {
            "mask_iou": target.gates.mask_iou,
            "score_error": target.gates.score_error,
        },
        "cases": cases,
    }


def user_mask_indices(model: ModelSpec, scores: Float32) -> list[int]:
    """Return the indices of the masks a user gets: the single mask, and the best-scoring other."""
    if model.finds_instances:
        return [0]
    return [*model.masks.single, max(model.masks.multimask, key=lambda i: float(scores[i]))]


def comparison_marks(
    model: ModelSpec, scores: Float32, stability: Sequence[float], precision: str
) -> dict[str, Any]:
    """Return which masks of a golden prompt are compared, and whether their order may change.

    Args:
        model: The model.
        scores: PyTorch's score of every mask.
        stability: Stability of every mask; empty for a model that detects instances.
        precision: Precision of the export.

    Returns:
        `compared`: the confident ones of the masks a user gets. `best_may_change`: true if another
        mask may have the best score, because the best is not compared or the scores are a tie.
    """
    answers = user_mask_indices(model, scores)
    compared = list(confident_masks(answers, [float(s) for s in scores], stability))
    best = answers[-1]
    others = [float(scores[i]) for i in model.masks.multimask if i != best]
    gap = float(scores[best]) - max(others, default=float("-inf"))
    return {
        "compared": compared,
        "best_may_change": best not in compared or gap < SCORE_GAPS[precision],
    }


def _with_confident_mask(model: ModelSpec, images: Sequence[ExpectedImage]) -> ExpectedImage | None:
    """Return the first image with a confident mask, of those a user gets; None if there is none."""

    def is_any_confident(case: Expected) -> bool:
        answers = user_mask_indices(model, case.scores)
        return bool(confident_masks(answers, [float(s) for s in case.scores], case.stability))

    return next((image for image in images if any(map(is_any_confident, image.cases))), None)
