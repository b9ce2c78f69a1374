"""The evaluation images and prompts of a model: those that ship, or a user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from effsam_export.config.parity import load_parity_images
from effsam_export.imaging.images import unsupported_parts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.config.parity import ParityImage
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import PromptSupport


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images with the prompts that a model is evaluated on.

    Attributes:
        images: Images with prompts in original-image pixels.
        left_out: Prompts that the model does not support, each with the reason.
    """

    images: tuple[ParityImage, ...]
    left_out: tuple[str, ...] = ()


def load_evaluation_set(model: ModelSpec, parity_file: Path | None) -> EvaluationSet:
    """Load a user's evaluation images, or those that ship, for a model.

    Raises:
        UsageError: The file has faults.
    """
    return evaluation_set(model, load_parity_images(parity_file), custom=parity_file is not None)


def evaluation_set(
    model: ModelSpec, images: tuple[ParityImage, ...], *, custom: bool
) -> EvaluationSet:
    """Return the evaluation set of a model.

    A user's own (`custom`) prompts are all kept: one that the model does not support is an error
    later. Of the prompts that ship, those that the model does not support are left out.
    """
    if custom:
        return EvaluationSet(images=images)
    supported, left_out = supported_cases(images, model.prompts)
    return EvaluationSet(images=supported, left_out=left_out)


def supported_cases(
    images: Sequence[ParityImage], support: PromptSupport
) -> tuple[tuple[ParityImage, ...], tuple[str, ...]]:
    """Return the images with the prompts a model supports, and why each other is left out."""
    rows, left_out = [], []
    for row in images:
        cases = []
        for case in row.cases:
            reasons = unsupported_parts(case.prompt, support)
            if case.mask_from is not None and not support.mask:
                reasons.append("this model takes no mask")
            if reasons:
                left_out.append(f"{row.path.stem}/{case.name}: {'; '.join(reasons)}")
            else:
                cases.append(case)
        rows.append(replace(row, cases=tuple(cases)))
    return tuple(row for row in rows if row.cases), tuple(left_out)
