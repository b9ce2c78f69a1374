"""Identify the model of a state dict by its tensor names and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

VIT_WIDTHS = {
    # Width of the tokens -> name of the model.
    1280: "a SAM ViT-H (also Expedit-SAM's)",
    1024: "a SAM ViT-L (also Expedit-SAM's)",
    768: "a SAM ViT-B (also Expedit-SAM's)",
    384: "a SlimSAM-50",
    168: "a SlimSAM-77",
}
PATCH = "image_encoder.patch_embed.proj.weight"


def describe(state: Mapping[str, Tensor]) -> str | None:
    """Return the model of a state dict with its article (`an EdgeSAM`), or None if unknown."""
    if "image_encoder.layers.0.blocks.0.conv1.c.weight" in state:
        return "a MobileSAM (TinyViT)"
    if "image_encoder.features.0.0.c.weight" in state:
        return "an EdgeSAM" if "image_encoder.fuse_stage2.weight" in state else "a RepViT-SAM"
    if "image_encoder.backbone.stages.0.op_list.0.conv.weight" in state:
        return f"an EfficientViT-SAM {_efficientvit(state)}"
    if "image_encoder.blocks.0.attn.multihead_attn.Wqkv.weight" in state:
        return "a SAM-Lightening"
    if "prompt_encoder.bbox_top_left_embeddings.weight" in state and PATCH in state:
        return "an EfficientSAM-Ti" if state[PATCH].shape[0] == 192 else "an EfficientSAM-S"
    if "image_encoder.blocks.0.attn.rel_pos_h" in state and PATCH in state:
        return VIT_WIDTHS.get(state[PATCH].shape[0], "a globally pruned SlimSAM")
    if any(name.startswith("image_encoder.module.") for name in state):
        return "a globally pruned SlimSAM"
    if "vision_encoder.patch_embed.projection.weight" in state:
        return "a SAM in the transformers naming"
    if "model.0.conv.weight" in state and "model.22.proto.cv1.conv.weight" in state:
        return "a FastSAM-s" if state["model.0.conv.weight"].shape[0] == 32 else "a FastSAM-x"
    return "a YOLO" if "model.0.conv.weight" in state else None


def _efficientvit(state: Mapping[str, Tensor]) -> str:
    """Return the size, by the depth of the last stage; XL has six stages."""
    stem = "image_encoder.backbone.stages"
    last = 5 if f"{stem}.5.op_list.0.main.inverted_conv.conv.weight" in state else 4
    depth = 0
    while f"{stem}.{last}.op_list.{depth + 1}.context_module.main.qkv.conv.weight" in state:
        depth += 1
    known = {(4, 4): "L0", (4, 6): "L1", (4, 8): "L2", (5, 3): "XL0", (5, 6): "XL1"}
    return known.get((last, depth), "of an unknown size")
