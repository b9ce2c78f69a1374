"""The types of models that X-AnyLabeling has for EdgeSAM and for EfficientViT-SAM."""

from __future__ import annotations

from typing import Literal

XType = Literal["edge_sam", "efficientvit_sam"]
TYPES: dict[str, XType] = {
    "edge-sam": "edge_sam",
    "edge-sam-3x": "edge_sam",
    "efficientvit-sam-l0": "efficientvit_sam",
    "efficientvit-sam-l1": "efficientvit_sam",
    "efficientvit-sam-l2": "efficientvit_sam",
    "efficientvit-sam-xl0": "efficientvit_sam",
    "efficientvit-sam-xl1": "efficientvit_sam",
}
"""Model -> value of `type` in the app's configuration."""
