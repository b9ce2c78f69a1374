"""X-AnyLabeling: custom models of its own types `edge_sam` and `efficientvit_sam`.

Other models like SAM are of type `segment_anything`, which is the layout `anylabeling`.
Source: X-AnyLabeling 87da3399, `services/auto_labeling`: `edge_sam.py` with `__base__/sam.py`, and
`efficientvit_sam.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from effsam_export.layouts import sam_like, x_edge_sam, x_efficientvit_sam
from effsam_export.layouts.x_types import TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import Precision

APP = "X-AnyLabeling"
MERGES = False
USE = ("*Load Custom Model*, then choose `config.yaml` here.",)
SIDE_KEYS = {"edge_sam": "target_length", "efficientvit_sam": "target_size"}
"""Type -> key of the longest side of the prompts' frame."""


def fault(model: ModelSpec) -> tuple[str, str] | None:
    """Return why the app cannot have a model, and a hint; None if it can."""
    kind = TYPES.get(model.name)
    if kind == "efficientvit_sam" and sam_like.is_sam_like(model):
        # The graph resizes the image itself, to any size of the encoder.
        return None
    if kind is None and sam_like.is_sam_like(model):
        return (
            f"{APP} has no type of its own for `{model.name}`",
            "give --target anylabeling, whose bundles it takes too",
        )
    return sam_like.fault_of(model, APP)


def applied(model: ModelSpec) -> ModelSpec:
    """Return a model without faults with the components, preprocessing and masks of its type."""
    laid_out = sam_like.with_four_masks(model, APP)
    if TYPES[model.name] == "edge_sam":
        return x_edge_sam.applied(laid_out)
    return x_efficientvit_sam.applied(laid_out)


def paths(precision: Precision) -> Mapping[str, str]:
    """Return component -> path of its ONNX file in the bundle."""
    del precision
    return {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}


def files(model: ModelSpec, precisions: Sequence[Precision]) -> Mapping[str, str]:
    """Return the configuration that the app opens. JSON strings are YAML strings."""
    precision = precisions[0]
    kind = TYPES[model.name]
    values: dict[str, str | int] = {
        "type": kind,
        "name": f"effsam-{model.name}-{precision}",
        "display_name": f"{model.title}, {precision}",
        "encoder_model_path": paths(precision)["encoder"],
        "decoder_model_path": paths(precision)["decoder"],
        SIDE_KEYS[kind]: sam_like.SIDE,
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return {"config.yaml": "".join(lines)}
