"""Convert the transformers library's names of SAM's tensors to the authors' names.

Source: transformers' `SamModel` (`conversion script of models/sam`), compared with all of
SlimSAM's tensors under both names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from effsam_export.weights.inert import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

MATRIX = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

RULES: tuple[tuple[str, str], ...] = (
    # Applied in order to every match.
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
    # The middle layer first, because its new number is another layer's old one.
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|iou_prediction_head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|iou_prediction_head)\.proj_out\.", r"\1.layers.2."),
)


HUB_ONLY = ("vision_encoder.", ".layer_norm", ".proj_in.", ".proj_out.", ".upscale_", "mask_embed.")
"""Parts of names that only transformers uses."""


def is_hub(names: Iterable[str]) -> bool:
    """Return whether tensor names are transformers', of a whole model or of some layers."""
    return any(part in name for name in names for part in HUB_ONLY)


def author_name(name: str) -> str:
    """Return the authors' name of a tensor."""
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


def from_hub(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict that has transformers' names with the authors' names.

    Raises:
        Unreadable: The two names of SAM's positional matrix have different values.
    """
    import torch

    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        own = author_name(name)
        if own in renamed and not torch.equal(renamed[own], value):
            raise Unreadable(f"`{name}` and its other name have different values")
        renamed[own] = value
    return renamed
