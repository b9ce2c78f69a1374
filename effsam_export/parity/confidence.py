"""Confident masks: those of PyTorch that are good and stable enough to decide a parity check.

PyTorch gives each mask a score. A mask with a low score, or one that changes much with the mask
threshold, also changes with every rounding, so its IoU says little about an exported model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MIN_SCORE = 0.7
"""Minimum score: a predicted IoU, the stability that EdgeSAM ranks by, or a confidence."""
MIN_STABILITY = 0.7
"""Minimum stability, as `imaging.images.stability` returns it."""
MIN_MASKS = 5
"""With fewer confident masks over all prompts, as with random weights, all masks decide."""
SCORE_GAPS: Mapping[str, float] = {"fp32": 0.001, "fp16": 0.001, "bf16": 0.005, "int8": 0.005}
"""Precision -> score gap from which on a change of the best-scoring mask is no tie."""


def confident_masks(
    masks: Iterable[int], scores: Sequence[float], stability: Sequence[float]
) -> tuple[int, ...]:
    """Return those of some masks that PyTorch is confident of.

    Args:
        masks: Indices of the masks.
        scores: PyTorch's score of every mask of the model; empty if unknown: no mask is confident.
        stability: Stability of every mask, 0 to 1; empty for a model that detects instances, whose
            score alone counts.
    """
    if not scores:
        return ()
    return tuple(
        i
        for i in masks
        if scores[i] >= MIN_SCORE and (not stability or stability[i] >= MIN_STABILITY)
    )
