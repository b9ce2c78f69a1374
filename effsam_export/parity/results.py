"""Records of a parity check: measurements, and the report that `parity.json` holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from effsam_export.parity.cases import all_masks_decide, decisions
from effsam_export.parity.confidence import MIN_MASKS
from effsam_export.spec.prompts import EMBEDDINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.parity.cases import CaseResult, Decision
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

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What decides of each prompt, in the order of `cases`."""
        return decisions(self.cases, self.gates, self.precision)

    @property
    def all_masks_decide(self) -> bool:
        """True where PyTorch is confident of too few masks."""
        return all_masks_decide(self.cases)

    @property
    def confident_masks(self) -> int:
        """Number of confident masks, of those a user gets."""
        return sum(len(c.confident) for c in self.cases)

    @property
    def ious(self) -> tuple[float, ...]:
        """Minimum IoU of the deciding masks of each prompt that has any."""
        return tuple(d.min_iou for d in self.decisions if d.min_iou is not None)

    @property
    def min_iou(self) -> float | None:
        """Minimum IoU of the deciding masks; None if nothing ran end to end."""
        return _with_nan(min, self.ious)

    @property
    def mean_iou(self) -> float | None:
        """Mean of `ious`; None if nothing ran end to end."""
        return sum(self.ious) / len(self.ious) if self.ious else None

    @property
    def score_error(self) -> float | None:
        """Largest score error that decides; None if nothing ran end to end."""
        return _with_nan(max, tuple(d.score_error for d in self.decisions))

    @property
    def decided_by(self) -> str:
        """Which masks decide, as a sentence; empty if nothing ran end to end."""
        if not self.cases:
            return ""
        return f"{self._decided_by} {self.proves_nothing}".rstrip()

    @property
    def proves_nothing(self) -> str:
        """Why passed gates do not count, as a sentence; empty if they do."""
        if self.precision == "bf16" and self.simulator:
            return f"The gates do not count: {self.simulator} computed the masks."
        return ""

    @property
    def _decided_by(self) -> str:
        found, total = self.confident_masks, sum(len(c.user_masks) for c in self.cases)
        if self.all_masks_decide:
            names = {t.name for c in self.comparisons for t in c.tensors}
            also = " and the embedding's SQNR" if EMBEDDINGS in names else ""
            return (
                f"PyTorch is confident of {found} of {total} masks, fewer than {MIN_MASKS}, so "
                f"all masks{also} decide."
            )
        if found == total:
            return f"PyTorch is confident of all {total} masks, and they decide."
        return (
            f"PyTorch is confident of {found} of {total} masks, and these decide. The others are "
            "shown beside them."
        )


def _with_nan(
    chosen: Callable[[tuple[float, ...]], float], values: tuple[float, ...]
) -> float | None:
    """Return the minimum or maximum; NaN if a value is NaN, None if there is none."""
    return next((v for v in values if math.isnan(v)), chosen(values)) if values else None
