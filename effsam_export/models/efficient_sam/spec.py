"""EfficientSAM-Ti and EfficientSAM-S: a plain ViT encoder with its own decoder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.efficient_sam.components import (
    DECODER,
    ENCODER,
    MASKS,
    PREPROCESS,
    PROMPTS,
)
from effsam_export.spec.model import Licence, ModelSpec, UrlSource, WeightFile

if TYPE_CHECKING:
    from torch import nn

LICENCE = Licence(
    spdx="Apache-2.0",
    source="https://github.com/yformer/EfficientSAM/blob/main/LICENSE",
    text_file="Apache-2.0.txt",
    notice="The weights are in the authors' repository, without a separate licence.",
)
SIZES: dict[str, tuple[int, int]] = {
    # Width of tokens, and heads. Source: `efficient_sam/build_efficient_sam.py`.
    "ti": (192, 3),
    "s": (384, 6),
}
FOLDER = "https://github.com/yformer/EfficientSAM/raw/main/weights"
TI_WEIGHTS = WeightFile(
    file_name="efficient_sam_vitt.pt",
    sha256="dff858b19600a46461cbb7de98f796b23a7a888d9f5e34c0b033f7d6eb9e4e6a",
    size=40_982_470,
    sources=(UrlSource(url=f"{FOLDER}/efficient_sam_vitt.pt"),),
)
# A zip archive with `efficient_sam_vits.pt`; the authors publish no hash.
S_WEIGHTS = WeightFile(
    file_name="efficient_sam_vits.pt.zip",
    sha256=None,
    size=None,
    sources=(UrlSource(url=f"{FOLDER}/efficient_sam_vits.pt.zip"),),
)


def build(size: str) -> nn.Module:
    """Return EfficientSAM of one size with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.efficient_sam.module import EfficientSam

    dim, num_heads = SIZES[size]
    return EfficientSam(dim, num_heads).eval()


def _spec(size: str, weights: WeightFile) -> ModelSpec:
    return ModelSpec(
        name=f"efficient-sam-{size}",
        title=f"EfficientSAM-{size.title()} (plain ViT encoder)",
        paper="Xiong et al., EfficientSAM: Leveraged Masked Image Pretraining for Efficient "
        "Segment Anything, arXiv 2312.00863",
        origin="https://github.com/yformer/EfficientSAM at d525f62",
        licence=LICENCE,
        weights=weights,
        state="architecture verified",
        preprocess=PREPROCESS,
        prompts=PROMPTS,
        masks=MASKS,
        components=(ENCODER, DECODER),
        build=partial(build, size),
    )


EFFICIENT_SAM_TI = _spec("ti", TI_WEIGHTS)
EFFICIENT_SAM_S = _spec("s", S_WEIGHTS)
