"""Segment one image file with a bundle. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from effsam_export.errors import PromptError
from effsam_export.imaging.decode import read_image
from effsam_export.inference.predictor import Predictor
from effsam_export.inference.runner import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.imaging.pixels import Decoded, ValueRange
    from effsam_export.spec.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """An image and the masks of its prompts."""

    decoded: Decoded
    prediction: Prediction


def segment(
    bundle_path: Path,
    image_path: Path,
    prompts: Sequence[Prompt],
    *,
    single_mask: bool = False,
    value_range: ValueRange = "auto",
) -> Segmentation:
    """Run a bundle on an image and return the masks of the prompts.

    Args:
        bundle_path: Directory of the bundle, or its `.effsam.zip` file.
        image_path: An image file.
        prompts: In pixels of the original image. For one prompt, all masks of the model are
            returned, best score first; for several, the best mask of each, in their order.
        single_mask: Use the single-mask output instead of the multimask outputs.
        value_range: Which values of the image become black and white.

    Raises:
        BundleError: The bundle is damaged or lacks a component.
        ImageError: The image cannot be read.
        PromptError: A prompt is outside the image or not supported by the model.
        ToolchainMissing: The bundle's runtime is not installed.
    """
    if not prompts:
        raise PromptError("there is no prompt")
    decoded = read_image(image_path, value_range)
    with Predictor(bundle_path) as predictor:
        predictor.set_image(decoded.pixels)
        one = len(prompts) == 1
        predictions = [
            predictor.answer(p, single_mask=single_mask, only_best=not one) for p in prompts
        ]
    return Segmentation(
        decoded=decoded, prediction=predictions[0] if one else best_of_each(predictions)
    )


def best_of_each(predictions: Sequence[Prediction]) -> Prediction:
    """Return the best mask of each prediction, in their order, as one prediction."""
    logits = [p.low_res_masks[:1] for p in predictions if p.low_res_masks is not None]
    return Prediction(
        masks=np.concatenate([p.masks[:1] for p in predictions]),
        scores=np.concatenate([p.scores[:1] for p in predictions]),
        low_res_masks=np.concatenate(logits) if logits else None,
        indices=tuple(p.indices[0] for p in predictions),
    )
