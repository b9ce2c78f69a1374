"""A target profile: backend, precision, options and parity gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Precision = Literal["fp32", "fp16", "bf16", "int8"]
LayoutName = Literal["anylabeling", "x-anylabeling", "transformers-js"]
"""Names of the layouts in the table of `effsam_export.layouts`."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Parity gates: the limits that an export in one precision must meet.

    All but `mean_iou` apply to every parity case. Those of masks and scores apply to the masks that
    decide (`parity.cases`).

    Attributes:
        mask_iou: Minimum IoU of the end-to-end mask with PyTorch's, at original image size.
        score_error: Maximum absolute difference of a predicted IoU, end to end.
        cosine: Minimum cosine similarity of an output tensor, in the comparisons of PyTorch with
            ONNX and of ONNX with the artefact.
        mean_iou: Minimum of the mean mask IoU over all cases with a mask that decides. In BF16 it
            does not apply where all masks decide.
    """

    mask_iou: float
    score_error: float
    cosine: float
    mean_iou: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TargetProfile:
    """A target in one precision, read from a TOML file in `targets/`.

    Attributes:
        precision: The selected one of `precisions`.
        precisions: The precisions that the target supports, the default first.
        opset: ONNX opset of the exported graphs.
        simplify: Whether to run onnxsim on the graphs.
        options: Target options (`--option`), which the backend defines and checks.
        layout: The app whose inputs, outputs and files the bundle has; None for our own.
        source: Bytes of the TOML file; a bundle records their hash.
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
    layout: LayoutName | None = None
