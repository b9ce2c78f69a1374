"""Records of a parity check: measurements, and the report that `parity.json` holds."""

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
    """The difference of one output tensor between two graphs.

    Attributes:
        max_abs: Largest absolute difference, in the tensor's own unit; NaN if not finite.
        rms: Root mean square of the difference.
        cosine: Cosine similarity of the flattened tensors.
        sqnr_db: Signal to noise ratio, 20 log10(rms(reference) / rms(difference)), in dB;
            infinite when equal.
        finite: Neither tensor holds NaN or Inf.
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

    The decoder is fed PyTorch's embedding.
    """

    point: ComparisonPoint
    component: str
    case: str
    tensors: tuple[TensorDiff, ...]
    problems: tuple[str, ...] = ()
    """Missing, extra or misshapen tensors. Any of them fails the check."""


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
        scores: PyTorch's score of each mask; empty for a model that detects instances.
        stability: Area of each mask at a raised mask threshold divided by its area at a lowered
            one, 0 to 1. A mask with a low value changes with rounding. Empty for instances.
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
        """Minimum IoU of the masks a user gets."""
        return self.mask_iou[self.worst]

    @property
    def worst(self) -> int:
        """Index of the mask with the minimum IoU, of those a user gets."""
        return min(self.user_masks, key=lambda i: self.mask_iou[i])


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The images of one case for a report.

    Attributes:
        image: uint8 HxWx3 RGB.
        points: (x, y, label) in pixels of the image.
        box: (x0, y0, x1, y1) in pixels of the image, or None.
        reference: PyTorch's mask with the minimum IoU, bool HxW.
        actual: The artefact's mask, bool HxW.
        mask: Its index in the decoder's output; None for a model with one mask per prompt.
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
    """The measurements of a parity check, the gates, and the failures."""

    model: str
    target: str
    precision: Precision
    gates: Gates
    comparisons: tuple[ComparisonResult, ...]
    cases: tuple[CaseResult, ...]
    failures: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Prompts that the model does not support, each with the reason."""
    notes: tuple[str, ...] = ()
    """How images were read that are not plain 8-bit ones, as sentences."""
    simulator: str = ""
    """What ran the artefacts in the place of the target's own runtime, or nothing."""

    @property
    def state(self) -> str:
        """`verified` if the target's own runtime ran the artefacts, else `simulated`."""
        return "simulated" if self.simulator else "verified"

    @property
    def passed(self) -> bool:
        """True if something was measured and nothing failed."""
        return bool(self.comparisons) and not self.failures
