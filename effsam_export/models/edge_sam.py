"""EdgeSAM and EdgeSAM-3x: a RepViT-M1 encoder with a fine-tuned SAM decoder.

The IoU head was not distilled. The authors rank masks by their stability instead, so the decoder
has one more output than SAM's (`predictor.py`, `utils/amg.py` of chongzhou96/EdgeSAM, b53372c).

Their predictor returns 1, 3 or 4 masks: the first, the other three, or all. Three are its default,
and here too. Prompts are SAM's, with a padding point if there is no box. Unlike the authors' export
scripts, this export has the mask prompt and bicubic interpolation, as their predictor has.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    DECODER_OUTPUTS,
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
    as_sam,
    decoder_reference,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes, Licence, ModelSpec, UrlSource, WeightFile
from effsam_export.spec.tensors import Feeds, TensorSpec

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.prompts import Preprocess, Sample

STABILITY = TensorSpec(
    name="stability_scores",
    shape=("prompts", 4),
    description="IoU of the mask at logits > 1 with the mask at logits > -1; ranks the masks",
)
OFFSET = 1.0


def stability_reference(module: nn.Module, sample: Sample) -> Feeds:
    """Return SAM's two outputs and the stability of each mask, as the authors compute it."""
    import numpy as np

    outputs = decoder_reference(module, sample)
    low_res = outputs["low_res_masks"]
    inside = (low_res > OFFSET).sum((2, 3), dtype=np.int32)
    around = (low_res > -OFFSET).sum((2, 3), dtype=np.int32)
    # An empty mask gets 0 instead of the authors' 0 / 0: NaN would come first in a ranking.
    scores = (inside / np.maximum(around, 1)).astype(np.float32)
    return {**outputs, STABILITY.name: scores}


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.repvit import export_form
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_sam(module), export_form)


ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)


def wrap_decoder(module: nn.Module) -> nn.Module:
    """Return the decoder for export, with the stability of each mask."""
    from effsam_export.models.sam.export import ExportDecoder, WithStability

    return WithStability(ExportDecoder(as_sam(module)), OFFSET)


DECODER = replace(
    SAM_DECODER,
    outputs=(*DECODER_OUTPUTS, STABILITY),
    wrap=wrap_decoder,
    reference=stability_reference,
)


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """Return EdgeSAM with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.repvit import M1_FUSED, RepViT
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.sam.transformer import Attention

    sam = Sam(RepViT(M1_FUSED), preprocess)
    for module in sam.modules():
        if isinstance(module, Attention):
            # EdgeSAM registers the projection of values before that of keys, unlike SAM.
            for name in ("k_proj", "out_proj"):
                module.add_module(name, module._modules.pop(name))
    return sam.eval()


def _spec(name: str, title: str, file_name: str, sha256: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=title,
        paper="Zhou et al., EdgeSAM, arXiv 2312.06660",
        origin="https://github.com/chongzhou96/EdgeSAM at b53372c",
        licence=Licence(
            spdx="LicenseRef-S-Lab-1.0",
            source="https://github.com/chongzhou96/EdgeSAM/blob/master/LICENSE",
            text_file="S-Lab-1.0.txt",
            restricted="the NTU S-Lab License 1.0 allows non-commercial use only",
        ),
        weights=WeightFile(
            file_name=file_name,
            sha256=sha256,
            size=38_807_540,
            sources=(
                UrlSource(
                    url="https://huggingface.co/spaces/chongzhou/EdgeSAM/resolve/main/weights/"
                    f"{file_name}"
                ),
            ),
        ),
        state="architecture verified",
        preprocess=SAM_PREPROCESS,
        prompts=SAM_PROMPTS,
        masks=replace(SAM_MASKS, score=STABILITY.name),
        components=(ENCODER, DECODER),
        build=build,
        # The encoder doubles the resolution of a stage at 32 pixels a cell.
        sizes=ImageSizes(multiple=32, at=partial(sam_at, build)),
    )


EDGE_SAM = _spec(
    "edge-sam",
    "EdgeSAM (RepViT-M1 encoder)",
    "edge_sam.pth",
    "439b086a20ab6fba90c12cba32e0001ba3aa726da5791ff8738acdd440330991",
)
EDGE_SAM_3X = _spec(
    "edge-sam-3x",
    "EdgeSAM-3x (RepViT-M1 encoder, trained three times as long)",
    "edge_sam_3x.pth",
    "5a3e3261da9e2f4c8154410885689ae57d09cbf4cf5d0c848b9d80b6df336ece",
)
