"""What a parity check found, and the judgement of it. Plain records, ready for `parity.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.spec.targets import Gates, Precision

ComparisonPoint = Literal["onnx", "artifact"]
"""`onnx`: PyTorch against the traced graph. `artifact`: that graph against the artefact."""

POINT_NAMES: Mapping[ComparisonPoint, str] = {
    "onnx": "PyTorch -> ONNX",
    "artifact": "ONNX -> artefact",
}


@dataclass(frozen=True, kw_only=True)
class TensorDiff:
    """One output tensor on both sides of a comparison.

    Attributes:
        max_abs: Largest absolute difference, in the tensor's own unit; NaN where not finite.
        rms: Root mean square of the difference.
        cosine: Cosine similarity of the flattened tensors.
        sqnr_db: Signal to noise ratio, 20 log10(rms(reference) / rms(difference)), in dB;
            infinite when equal.
        finite: Neither side holds NaN or Inf.
    """

    name: str
    max_abs: float
    rms: float
    cosine: float
    sqnr_db: float
    finite: bool


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """One component at one comparison point, on one input.

    The decoder is fed the reference's embedding.
    """

    point: ComparisonPoint
    component: str
    case: str
    tensors: tuple[TensorDiff, ...]
    problems: tuple[str, ...] = ()
    """Missing, extra or misshapen tensors; any fails the check."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One prompt end to end: photograph to mask at original size, artefact against PyTorch.

    Attributes:
        case: `image/prompt`.
        mask_iou: IoU per mask of the decoder's output, in graph order.
        boundary_iou: Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562) per mask.
        score_error: Largest absolute difference of a score that ranks masks.
        best: Index of the multimask set's best mask by the reference's scores.
        artifact_best: The same by the artefact's scores.
        score_gap: How far the reference's best score lies above its second.
        best_iou: IoU of the mask that the artefact's scores choose with the one that the
            reference's choose: a set has masks that are nearly equal.
        user_masks: Indices of the masks a user is given: single mask and the reference's best.
        scores: What the reference thinks of each of its masks; none of instances.
        stability: How little each of them depends on where its logits are cut, from 0 to 1: a mask
            with little of it moves with last digits. None of instances.
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

    @property
    def min_iou(self) -> float:
        """Least IoU among the masks a user is given."""
        return self.mask_iou[self.worst]

    @property
    def worst(self) -> int:
        """Index of the mask a user is given that has the least IoU."""
        return min(self.user_masks, key=lambda i: self.mask_iou[i])


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a report shows of one case: uint8 HxWx3 image, and two HxW masks of the worst answer.

    `mask` is its index in the decoder's output, or None where a prompt has one answer alone.
    """

    case: str
    image: NDArray[np.uint8]
    points: tuple[tuple[float, float, int], ...]
    box: tuple[float, float, float, float] | None
    reference: NDArray[np.bool_]
    actual: NDArray[np.bool_]
    mask: int | None = None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Everything that was measured, the gates, and why it failed if it did."""

    model: str
    target: str
    precision: Precision
    gates: Gates
    comparisons: tuple[ComparisonResult, ...]
    cases: tuple[CaseResult, ...]
    failures: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Prompts that ship and that the model cannot honour, each with its reason."""
    simulator: str = ""
    """What ran the artefacts in the place of the target's own runtime, or nothing."""

    @property
    def state(self) -> str:
        """`verified` where the runtime that ships was judged, `simulated` where a simulator was."""
        return "simulated" if self.simulator else "verified"

    @property
    def passed(self) -> bool:
        """True only when something was measured and nothing failed."""
        return bool(self.comparisons) and not self.failures
