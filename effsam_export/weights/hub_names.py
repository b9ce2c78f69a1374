"""The transformers library's names for SAM's tensors, turned back into the authors'.

Source: transformers' `SamModel` (`conversion script of models/sam`), compared with the full list of
SlimSAM's tensors in both namings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MARK = "vision_encoder.pos_embed"
"""A name that only the transformers naming has."""

MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

RULES: tuple[tuple[str, str], ...] = (
    # Applied in order, each wherever it matches.
    (r"^shared_image_embedding\.positional_embedding$", MATRIX),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", MATRIX),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm([1-4])\.", r".norm\1."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    # The middle layer first: it takes the number that the first one gives up.
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|iou_prediction_head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|iou_prediction_head)\.proj_out\.", r"\1.layers.2."),
)


def author_name(name: str) -> str:
    """The authors' name of one tensor."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def from_hub(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict in the transformers naming by the authors' names; any other as it is."""
    if MARK not in state:
        return state
    return {author_name(name): value for name, value in state.items()}
