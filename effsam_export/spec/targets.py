"""A target, its precisions and its parity gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What an export must reach, for one precision. Every value is checked for every case.

    Attributes:
        mask_iou: Least IoU of the end-to-end mask with the reference's, at original size.
        score_error: Largest difference of an IoU prediction, end to end.
        cosine: Least cosine similarity of any output tensor, at the two component seams.
        mean_iou: Least mean over all cases of that IoU.
    """

    mask_iou: float
    score_error: float
    cosine: float
    mean_iou: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """A device and one precision for it, resolved from a TOML file in `targets/`.

    Attributes:
        simplify: Run onnxsim on the graphs; off where it was measured not to pay.
        options: Runtime settings handed to the backend, whose names it checks.
        source: Bytes of the TOML file, so that a bundle can say by hash which profile made it.
    """

    name: str
    description: str
    backend: str
    precision: Precision
    precisions: tuple[Precision, ...]
    opset: int
    simplify: bool
    options: Mapping[str, str | int | float | bool]
    gates: Gates
    source: bytes
