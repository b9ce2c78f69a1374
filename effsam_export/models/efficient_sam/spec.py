"""EfficientSAM-Ti and EfficientSAM-S: a plain ViT encoder with its own decoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.efficient_sam.components import (
    DECODER,
    ENCODER,
    MASKS,
    PREPROCESS,
    PROMPTS,
    decoder_at,
    encoder_at,
)
from effsam_export.models.sam.components import low_res_size
from effsam_export.spec.model import ImageSizes, Licence, ModelSpec, UrlSource, WeightFile

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.sizes import Size

LICENCE = Licence(
    spdx="Apache-2.0",
    source="https://github.com/yformer/EfficientSAM/blob/main/LICENSE",
    text_file="Apache-2.0.txt",
    notice="The weights are in the authors' repository, without a separate licence.",
)
SCALES: dict[str, tuple[int, int]] = {
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


def build(scale: str, image_size: int = 1024) -> nn.Module:
    """Return EfficientSAM of one scale with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.efficient_sam.module import EfficientSam

    dim, num_heads = SCALES[scale]
    return EfficientSam(dim, num_heads, image_size).eval()


def at_size(scale: str, model: ModelSpec, size: Size) -> ModelSpec:
    """Return EfficientSAM for another size of input.

    As in the authors' code, whose `img_size` is also the frame of the prompts: the positions of the
    file, learned for 224 pixels, are resized to the map of any image.
    """
    assert isinstance(size, int)
    preprocess = replace(model.preprocess, image_size=size, prompt_size=size)
    return replace(
        model,
        preprocess=preprocess,
        masks=replace(model.masks, low_res_size=low_res_size(preprocess)),
        components=(encoder_at(preprocess), decoder_at(preprocess)),
        build=partial(build, scale, size),
    )


def _spec(scale: str, weights: WeightFile) -> ModelSpec:
    return ModelSpec(
        name=f"efficient-sam-{scale}",
        title=f"EfficientSAM-{scale.title()} (plain ViT encoder)",
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
        build=partial(build, scale),
        sizes=ImageSizes(multiple=16, rectangles=False, at=partial(at_size, scale)),
    )


EFFICIENT_SAM_TI = _spec("ti", TI_WEIGHTS)
EFFICIENT_SAM_S = _spec("s", S_WEIGHTS)
