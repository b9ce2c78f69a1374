"""Results of one prompt end to end, and which of its masks decide a parity check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from effsam_export.parity.confidence import MIN_MASKS, SCORE_GAPS, confident_masks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effsam_export.spec.targets import Gates, Precision

Ranking = Literal["same", "tie", "changed"]
"""The artefact's best-scoring mask: PyTorch's; another, by scores too close to count; another."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One prompt end to end: the artefact's masks at original image size against PyTorch's.

    Attributes:
        case: `image/prompt`.
        mask_iou: IoU per mask of the decoder's output, in graph order.
        boundary_iou: Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562) per mask.
        score_error: Largest absolute difference of a predicted IoU or instance score.
        best: Index of PyTorch's best-scoring mask in the multimask set.
        artifact_best: Index of the artefact's best-scoring mask.
        score_gap: PyTorch's best score minus its second best.
        best_iou: IoU of the two best-scoring masks, which may have different indices: a set often
            has masks that are nearly equal.
        user_masks: Indices of the masks a user gets: the single mask and PyTorch's best.
        scores: PyTorch's score of each mask. For all instances of an image: the lowest.
        stability: Area of each mask at a raised mask threshold divided by its area at a lowered
            one, 0 to 1. A mask with a low value changes with rounding. Empty for instances.
        score_errors: Absolute difference of the score per mask; empty if unknown.
        finite: The artefact's outputs hold no NaN and no Inf.
    """

    case: str
    mask_iou: tuple[float, ...]
    boundary_iou: tuple[float, ...]
    score_error: float
    best: int
    artifact_best: int
    score_gap: float
    best_iou: float
    user_masks: tuple[int, ...]
    scores: tuple[float, ...] = ()
    stability: tuple[float, ...] = ()
    score_errors: tuple[float, ...] = ()
    finite: bool = True

    @property
    def min_iou(self) -> float:
        """Minimum IoU of the masks a user gets."""
        return self.mask_iou[self.worst]

    @property
    def worst(self) -> int:
        """Index of the mask with the minimum IoU, of those a user gets."""
        return min(self.user_masks, key=lambda i: self.mask_iou[i])

    @property
    def confident(self) -> tuple[int, ...]:
        """Indices of the confident masks, of those a user gets."""
        return confident_masks(self.user_masks, self.scores, self.stability)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What decides of one prompt in a parity check.

    Attributes:
        case: The measurements of the prompt.
        masks: Indices of the masks that decide; none if PyTorch is confident of none.
        score_error: Largest score error that decides.
        ranking: What became of PyTorch's best-scoring mask.
    """

    case: CaseResult
    masks: tuple[int, ...]
    score_error: float
    ranking: Ranking

    @property
    def worst(self) -> int | None:
        """Index of the deciding mask with the minimum IoU; None if no mask decides."""
        return min(self.masks, key=lambda i: self.case.mask_iou[i], default=None)

    @property
    def min_iou(self) -> float | None:
        """Minimum IoU of the deciding masks; None if no mask decides."""
        return None if self.worst is None else self.case.mask_iou[self.worst]

    @property
    def beside(self) -> tuple[int, ...]:
        """Indices of the masks that a user gets and that do not decide."""
        return tuple(i for i in self.case.user_masks if i not in self.masks)

    @property
    def ranking_counts(self) -> bool:
        """Whether the best-scoring mask changed, and PyTorch's own is one that decides."""
        return self.ranking == "changed" and self.case.best in self.masks


def all_masks_decide(cases: Sequence[CaseResult]) -> bool:
    """Return whether there are too few confident masks, so that all masks decide."""
    return sum(len(c.confident) for c in cases) < MIN_MASKS


def decisions(
    cases: Sequence[CaseResult], gates: Gates, precision: Precision
) -> tuple[Decision, ...]:
    """Return what decides of each prompt: the confident masks, or all where there are too few.

    Where all masks decide, scores that are closer than twice the allowed score error may change
    their order. Otherwise the score gap of the precision is the limit.

    Args:
        cases: The results of all prompts.
        gates: The limits.
        precision: Precision of the export.
    """
    if all_masks_decide(cases):
        most = 2 * gates.score_error
        return tuple(
            Decision(
                case=case,
                masks=case.user_masks,
                score_error=case.score_error,
                ranking=_ranking(case, is_tie=case.score_gap <= most),
            )
            for case in cases
        )
    return tuple(
        Decision(
            case=case,
            masks=case.confident,
            score_error=max((case.score_errors[i] for i in case.confident), default=0.0)
            if case.score_errors
            else case.score_error,
            ranking=_ranking(case, is_tie=case.score_gap < SCORE_GAPS[precision]),
        )
        for case in cases
    )


def _ranking(case: CaseResult, *, is_tie: bool) -> Ranking:
    if case.artifact_best == case.best:
        return "same"
    return "tie" if is_tie else "changed"
