"""RepViT-SAM: a RepViT-M2.3 encoder with SAM's decoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_MASKS,
    SAM_PREPROCESS,
    SAM_PROMPTS,
    as_sam,
)
from effsam_export.models.sam.sizes import sam_at
from effsam_export.spec.model import ImageSizes, Licence, ModelSpec, UrlSource, WeightFile

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.prompts import Preprocess


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.repvit import export_form
    from effsam_export.models.sam.export import ExportEncoder

    return ExportEncoder(as_sam(module), export_form)


ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """Return RepViT-SAM with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.repvit import M2_3, RepViT
    from effsam_export.models.sam.module import Sam

    return Sam(RepViT(M2_3), preprocess).eval()


REPVIT_SAM = ModelSpec(
    name="repvit-sam",
    title="RepViT-SAM (RepViT-M2.3 encoder)",
    paper="Wang et al., RepViT-SAM, arXiv 2312.05760",
    origin="https://github.com/THU-MIG/RepViT at 298f420",
    licence=Licence(
        spdx="Apache-2.0",
        source="https://github.com/THU-MIG/RepViT/blob/main/LICENSE",
        text_file="Apache-2.0.txt",
    ),
    weights=WeightFile(
        file_name="repvit_sam.pt",
        sha256="1fd2867cf669e6d89b1c91d0eb883d83ef4bcc590143dd2ca35e2705b21a4f2f",
        size=None,
        sources=(
            UrlSource(url="https://github.com/THU-MIG/RepViT/releases/download/v1.0/repvit_sam.pt"),
        ),
    ),
    state="architecture verified",
    preprocess=SAM_PREPROCESS,
    prompts=SAM_PROMPTS,
    masks=SAM_MASKS,
    components=(ENCODER, SAM_DECODER),
    build=build,
    sizes=ImageSizes(multiple=16, at=partial(sam_at, build)),
)
